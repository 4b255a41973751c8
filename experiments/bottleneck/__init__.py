"""Scores of encoder-decoders with a fixed source vector or attention, against source length."""
