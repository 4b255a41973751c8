"""Scores of state tracking on sequences longer than those of training."""
