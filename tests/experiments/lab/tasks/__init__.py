"""Tests of experiments.lab.tasks."""
