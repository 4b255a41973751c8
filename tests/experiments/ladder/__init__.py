"""Tests of experiments.ladder."""
