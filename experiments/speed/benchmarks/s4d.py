"""Benchmark of the S4D layer without readout against a PyTorch form with Fourier transforms."""

from baselines.state_space import S4D
from experiments.speed.benchmark import Alternative, Benchmark, make_benchmark
from experiments.speed.benchmarks.inputs import layer_function_and_arguments
from experiments.speed.pytorch.execution import prepare_torch_implementation
from experiments.speed.pytorch.s4d import create_s4d_layer_closure


def s4d_benchmark(
  seed: int, batch: int, length: int, width: int, state_size: int, steps: int = 0
) -> Benchmark:
  """Defines a benchmark of the S4D layer.

  Args:
    seed: Seed of the random parameters and inputs.
    batch: Number of sequences B.
    length: Tokens T of each sequence.
    width: Channels D.
    state_size: State variables N of each channel, in N / 2 conjugate pairs.
    steps: Number of gradient descent steps in one compiled loop, or 0 for a single call.

  Returns:
    The benchmark.

  """
  ours, arguments = layer_function_and_arguments(
    S4D(state_size=state_size, readout='none'), seed, (batch, length, width))

  def to_torch_layout(parameters, x):
    output_real, output_imaginary = parameters['output_kernel']
    weights = {
      'log_real': parameters['log_real'].T, 'imaginary': parameters['imaginary'].T,
      'output_real': output_real.T, 'output_imaginary': output_imaginary.T,
      'log_step': parameters['log_step'], 'skip': parameters['skip'],
    }
    return weights, x.swapaxes(1, 2)

  return make_benchmark(
    ours, arguments, (None, 0, 0),
    {
      'torch FFT': Alternative(
        create_s4d_layer_closure, to_torch_layout, lambda y: y.swapaxes(1, 2),
        prepare_torch_implementation),
    },
    steps=steps,
  )
