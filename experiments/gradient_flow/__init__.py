"""Norm of the gradient of an output with respect to an input, against their distance in tokens."""
