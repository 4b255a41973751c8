"""Experiment cells, from the settings of a run to the numbers that its execution yields."""
