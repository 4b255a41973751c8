"""Tests of experiments.receptive_field."""
