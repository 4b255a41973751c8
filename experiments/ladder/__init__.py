"""Scores, state size and step time of recurrent layers and attention, at equal parameter counts."""
