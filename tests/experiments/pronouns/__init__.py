"""Tests of experiments.pronouns."""
