"""Claims, controls that check the validity of an experiment, and effects that claims test."""
