"""Translation quality and training FLOPs of all encoder-decoders."""
