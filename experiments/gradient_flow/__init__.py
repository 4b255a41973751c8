"""Gradient norm of an output with respect to an input, as a function of their token distance."""
