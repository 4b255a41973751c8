"""Tests of experiments.parallelism."""
