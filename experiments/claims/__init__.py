"""The command that prints a verdict on each claim, derived from stored experiment records."""
