"""The Transformer, from single layers to complete models and decoding."""
