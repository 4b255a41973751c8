"""Grid cells of experiments, from the settings of a run to its numerical results."""
