"""Operation counts and measured durations of each layer, compared with its published complexity."""
