"""Tests of experiments.lab.weights."""
