"""Tests of the code that all studies share."""
