"""The command that lists layers, tasks and studies with their options."""
