"""Execution of studies, from command-line flags to experiment cells and their stored records."""
