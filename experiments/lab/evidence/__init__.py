"""Claims about experiments, validity checks of experiments, and effects that claims evaluate."""
