"""The command that takes others' checkpoints over."""
