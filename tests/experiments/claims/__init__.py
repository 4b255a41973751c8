"""Tests of experiments.claims."""
