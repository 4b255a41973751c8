"""Tests of the layer interface, attention, complete models and decoding."""
