"""The command that creates an HTML report from a folder of results."""
