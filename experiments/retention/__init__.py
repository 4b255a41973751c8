"""Scores of every layer against the distance in tokens over which it must retain information."""
