"""Claims about experiments, validity checks of experiments, and functions that compute effects."""
