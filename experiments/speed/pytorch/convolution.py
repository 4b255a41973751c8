"""Causal convolutions over time, computed by PyTorch's `conv1d`."""

from collections.abc import Callable
from typing import Any

from experiments.speed.pytorch.execution import load_torch


def causal_convolution(x: Any, kernel: Any, bias: Any, dilation: int = 1, groups: int = 1) -> Any:
  """Convolves an input that is padded with zeros in front.

  Args:
    x: Input [B, D, T].
    kernel: Kernel [F, D / groups, k].
    bias: Bias [F].
    dilation: Distance in tokens between neighbouring kernel taps.
    groups: Number of groups of channels that are convolved separately.

  Returns:
    The output [B, F, T].

  """
  functional, padding = load_torch().nn.functional, (kernel.shape[-1] - 1) * dilation
  padded = functional.pad(x, (padding, 0))
  return functional.conv1d(padded, kernel, bias, dilation=dilation, groups=groups)


def create_causal_convolution_closure(
  dilation: int, kernel: Any, bias: Any, x: Any
) -> Callable[[], Any]:
  """Returns a function that applies a causal convolution to the given input.

  Args:
    dilation: Distance in tokens between neighbouring kernel taps.
    kernel: Kernel [F, D, k].
    bias: Bias [F].
    x: Input [B, D, T].

  Returns:
    A function without arguments that computes the output [B, F, T].

  """
  return lambda: causal_convolution(x, kernel, bias, dilation)
