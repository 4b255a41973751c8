"""Parameters as files."""
