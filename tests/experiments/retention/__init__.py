"""Tests of experiments.retention."""
