"""Pronoun resolution by distance, and the attention weights on the antecedent."""
