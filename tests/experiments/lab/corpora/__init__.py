"""Tests of experiments.lab.corpora."""
