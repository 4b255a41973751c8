"""How far gradients flow, before training and during it."""
