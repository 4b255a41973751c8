"""From Elman to attention: score beside state and time."""
