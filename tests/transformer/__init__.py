"""Tests of the layer interface, attention, whole models and decoding."""
