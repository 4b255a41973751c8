"""What a cell is, from its settings to its numbers."""
