"""Scores of encoder-decoders against source length, with one fixed source vector or attention."""
