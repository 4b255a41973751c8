"""Ahead-of-time compilation for TPUs on machines without a TPU."""
