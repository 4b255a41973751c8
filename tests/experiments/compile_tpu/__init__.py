"""Tests of experiments.compile_tpu."""
