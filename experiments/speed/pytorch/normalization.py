"""PyTorch's layer norm and RMS norm, with the epsilons of this repository's layers."""

from typing import Any

from experiments.speed.pytorch.execution import load_torch


def make_layer_norm(width: int) -> Any:
  """Makes a layer norm of the last axis with the default epsilon of Flax."""
  return load_torch().nn.LayerNorm(width, eps=1e-6)


def make_rms_norm(width: int) -> Any:
  """Makes an RMS norm of the last axis with the epsilon of Mamba-2."""
  return load_torch().nn.RMSNorm(width, eps=1e-5)
