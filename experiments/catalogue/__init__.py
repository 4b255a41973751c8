"""Command that lists layers, translators, positions, tasks and studies with their options."""
