"""Tests of experiments.translate."""
