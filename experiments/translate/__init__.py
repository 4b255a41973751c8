"""The command that translates a sentence with trained weights."""
