"""Tests of experiments.lab.cells."""
