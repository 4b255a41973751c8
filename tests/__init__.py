"""Laws first, then the rest; the folders are those of what is tested."""
