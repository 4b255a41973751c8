"""Training of ensembles that differ in seed and learning rate and share a compiled program."""
