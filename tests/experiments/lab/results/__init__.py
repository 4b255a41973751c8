"""Tests of experiments.lab.results."""
