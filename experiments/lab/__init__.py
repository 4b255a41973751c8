"""What the studies share; it knows no study."""
