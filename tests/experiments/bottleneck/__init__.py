"""Tests of experiments.bottleneck."""
