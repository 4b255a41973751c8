"""Tests of experiments.lab.training."""
