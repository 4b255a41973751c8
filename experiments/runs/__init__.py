"""Command that lists, shows, removes, compares and merges the records in folders of results."""
