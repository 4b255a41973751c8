"""Helpers of several test folders for commands, records and NumPy references."""
