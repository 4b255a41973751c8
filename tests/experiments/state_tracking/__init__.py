"""Tests of experiments.state_tracking."""
