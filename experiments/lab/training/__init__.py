"""Training of ensembles with one member per seed and learning rate, all in one compiled program."""
