"""Theoretical, measured and effective receptive fields of layers."""
