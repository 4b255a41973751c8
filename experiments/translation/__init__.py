"""Quality and training FLOPs of all encoder-decoders."""
