"""Command that lists the layers, encoder-decoders, position encodings, tasks and studies."""
