"""Who remembers? Score against distance."""
