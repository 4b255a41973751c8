"""Tests of what the studies share."""
