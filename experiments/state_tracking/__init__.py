"""Trained on short sequences, tested on longer ones."""
