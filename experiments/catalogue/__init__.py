"""Command that lists layers, translators, position encodings, tasks and studies with options."""
