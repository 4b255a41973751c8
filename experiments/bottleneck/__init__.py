"""Compares decoders that attend to the source with decoders that receive one fixed vector.

The scores are compared at each source length.
"""
