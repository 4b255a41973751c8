"""Tests of experiments.speed."""
