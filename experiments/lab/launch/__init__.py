"""Execution of studies, from command-line flags to grid cells and their stored records."""
