"""Creation and execution of grid cells, each of which computes the results of one run."""
