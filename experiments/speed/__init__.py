"""Speed of this repository's layers relative to PyTorch's and Flax's."""

OURS = 'ours'  # the name of this repository's implementation in records
