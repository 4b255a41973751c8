"""The command that makes one HTML page of a folder of results."""
