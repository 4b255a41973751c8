"""Tests of experiments.convert."""
