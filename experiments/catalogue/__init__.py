"""Command that lists the available layers, translators, position encodings, tasks and studies."""
