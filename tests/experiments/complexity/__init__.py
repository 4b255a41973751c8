"""Tests of experiments.complexity."""
