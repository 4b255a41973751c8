"""The command that looks after folders of results."""
