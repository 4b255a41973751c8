"""Conversion of published language-model checkpoints."""
