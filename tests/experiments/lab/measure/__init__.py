"""Tests of experiments.lab.measure."""
