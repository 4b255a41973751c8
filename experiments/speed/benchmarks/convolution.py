"""Benchmark of a causal dilated convolution against XLA's and PyTorch's convolutions."""

import functools

import jax

from baselines.convolution import Convolution
from experiments.speed.benchmark import Alternative, Benchmark, make_benchmark
from experiments.speed.benchmarks.inputs import layer_function_and_arguments
from experiments.speed.pytorch.convolution import create_causal_convolution_closure
from experiments.speed.pytorch.execution import prepare_torch_implementation


def convolution_benchmark(
  seed: int, batch: int, length: int, width: int, kernel: int, dilation: int, steps: int = 0
) -> Benchmark:
  """Defines a benchmark of a causal dilated convolution.

  Args:
    seed: Seed of the random parameters and inputs.
    batch: Number of sequences B.
    length: Tokens T of each sequence.
    width: Channels D of the input and of the output.
    kernel: Kernel size k in taps.
    dilation: Distance in tokens between neighbouring taps.
    steps: Number of gradient descent steps in one compiled loop, or 0 for a single call.

  Returns:
    The benchmark. XLA's convolution is omitted from compiled loops on a CPU.

  """
  ours, arguments = layer_function_and_arguments(
    Convolution(kernel, dilation), seed, (batch, length, width))
  padding = (kernel - 1) * dilation

  def xla_convolution(parameters, x):
    y = jax.lax.conv_general_dilated(
      x, parameters['kernel'], (1,), [(padding, 0)], rhs_dilation=(dilation,),
      dimension_numbers=('NWC', 'WIO', 'NWC'),
    )
    return y + parameters['bias'][None, None]

  def to_torch_layout(parameters, x):
    return parameters['kernel'].transpose(2, 1, 0), parameters['bias'], x.swapaxes(1, 2)

  alternative_implementations = {
    'lax.conv': Alternative(xla_convolution),
    'torch conv1d': Alternative(
      functools.partial(create_causal_convolution_closure, dilation),
      to_torch_layout, lambda y: y.swapaxes(1, 2), prepare_torch_implementation,
    ),
  }
  if steps and jax.default_backend() == 'cpu':
    # In a loop on a CPU, XLA's convolution is about fifty times slower than ours, too slow to use.
    del alternative_implementations['lax.conv']
  matmul_flops = 2 * batch * length * kernel * width**2
  return make_benchmark(
    ours, arguments, (None, 0, 0), alternative_implementations, matmul_flops, steps)
