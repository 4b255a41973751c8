"""Training of ensembles, whose members differ in seed and learning rate and share a program."""
