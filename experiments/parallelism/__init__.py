"""Time and memory of training and generation against sequence length."""
