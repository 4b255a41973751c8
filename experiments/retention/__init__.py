"""Scores of every layer against the distance over which it must retain tokens."""
