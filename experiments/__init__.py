"""The questions: one script each, and the rooms of machinery that they share."""
