"""Our layers' time over PyTorch's and Flax's."""
