"""Operation counts of each layer, compared with published complexity, and measured times."""
