"""Benchmark of the Mamba layer against a plain PyTorch form with a loop over time.

The whole layer is applied, with projections, short convolution and output gate.
"""

import jax

from baselines.state_space import Mamba
from experiments.speed.benchmark import Alternative, Benchmark, make_benchmark
from experiments.speed.benchmarks.inputs import layer_function_and_arguments
from experiments.speed.pytorch.execution import prepare_torch_implementation
from experiments.speed.pytorch.mamba import create_mamba_layer_closure


def mamba_benchmark(
  seed: int, batch: int, length: int, width: int, state_size: int, steps: int = 0
) -> Benchmark:
  """Defines a benchmark of the Mamba layer.

  Args:
    seed: Seed of the random parameters and inputs.
    batch: Number of sequences B.
    length: Tokens T of each sequence.
    width: Channels D of the input and of the output, half of the inner channels.
    state_size: State variables N of each inner channel.
    steps: Number of gradient descent steps in one compiled loop, or 0 for a single call.

  Returns:
    The benchmark.

  """
  ours, arguments = layer_function_and_arguments(
    Mamba(state_size=state_size), seed, (batch, length, width))
  return make_benchmark(
    ours, arguments, (None, 0, 0),
    {
      'torch scan over time': Alternative(
        create_mamba_layer_closure, lambda parameters, x: (to_torch_weights(parameters), x),
        prepare=prepare_torch_implementation),
    },
    steps=steps,
  )


def to_torch_weights(parameters: dict) -> dict[str, jax.Array]:
  """Converts the parameters of the layer `Mamba` into the weights of its PyTorch form."""
  convolution = parameters['convolution']
  return {
    **{name: parameters[name]['kernel'].T for name in ('input', 'selection', 'output')},
    'convolution': convolution['kernel'].T[:, None], 'convolution_bias': convolution['bias'],
    'step': parameters['step_kernel'].T, 'step_bias': parameters['step_bias'],
    'log_rate': parameters['log_rate'].T, 'skip': parameters['skip'],
  }
