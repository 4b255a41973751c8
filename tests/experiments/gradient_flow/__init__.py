"""Tests of experiments.gradient_flow."""
