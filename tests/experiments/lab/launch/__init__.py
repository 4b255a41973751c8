"""Tests of experiments.lab.launch."""
