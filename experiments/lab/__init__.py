"""Code that all studies share; it imports no study."""
