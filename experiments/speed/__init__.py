"""Our layers' time over PyTorch's and Flax's."""

OURS = 'ours'  # the name of the first contestant
