"""Benchmarks of LSTM and GRU layers against Flax's recurrent cells and PyTorch's layers.

Flax's GRU and PyTorch's layers add a second bias to the gates or to the candidate. It is zero and
gets no gradient, because gradient descent on it would change the layer in a second way.
"""

import functools

import jax.numpy as jnp
from flax import linen as nn

from baselines.recurrent import GRU, LSTM
from experiments.speed.benchmark import Alternative, Benchmark, make_benchmark
from experiments.speed.benchmarks.inputs import layer_function_and_arguments
from experiments.speed.pytorch.execution import prepare_torch_implementation
from experiments.speed.pytorch.library_layers import create_recurrent_layer_closure


def _recurrent_layer_benchmark(
  layer, flax_cell, torch_class, convert_parameters_to_flax_format, seed, batch, length, width,
  num_gates, steps, add_untrained_parameters=lambda flax_parameters: flax_parameters,
) -> Benchmark:
  ours, arguments = layer_function_and_arguments(layer, seed, (batch, length, width))
  flax_rnn = nn.RNN(flax_cell)

  def convert_parameters_to_torch_format(parameters, x):
    weights = {
      'weight_ih_l0': parameters['input']['kernel'].T,
      'weight_hh_l0': parameters['recurrent_kernel'].T,
      'bias_ih_l0': parameters['input']['bias'],
    }
    return weights, x

  def apply_flax_rnn(parameters, x):
    return flax_rnn.apply({'params': {'cell': add_untrained_parameters(parameters)}}, x)

  return make_benchmark(
    ours,
    arguments,
    (None, 0, 0),
    {
      f'flax RNN({type(flax_cell).__name__})': Alternative(
        apply_flax_rnn, convert_parameters_to_flax_format),
      f'torch.nn.{torch_class}': Alternative(
        functools.partial(create_recurrent_layer_closure, torch_class),
        convert_parameters_to_torch_format,
        prepare=prepare_torch_implementation,
      ),
    },
    2 * 2 * batch * length * num_gates * width**2,
    steps,
  )


def lstm_benchmark(seed: int, batch: int, length: int, width: int, steps: int = 0) -> Benchmark:
  """Defines a benchmark of the LSTM layer.

  Args:
    seed: Seed of the random parameters and inputs.
    batch: Number of sequences B.
    length: Tokens T of each sequence.
    width: Channels D of the input and of the hidden state.
    steps: Number of gradient descent steps in one compiled loop, or 0 for a single call.

  Returns:
    The benchmark.

  """
  def convert_lstm_parameters_to_flax_format(parameters, x):
    input_kernels = jnp.split(parameters['input']['kernel'], 4, 1)
    recurrent_kernels = jnp.split(parameters['recurrent_kernel'], 4, 1)
    biases = jnp.split(parameters['input']['bias'], 4)
    flax_parameters = {
      f'i{gate}': {'kernel': kernel} for gate, kernel in zip('ifgo', input_kernels, strict=True)
    }
    for gate, kernel, bias in zip('ifgo', recurrent_kernels, biases, strict=True):
      flax_parameters[f'h{gate}'] = {'kernel': kernel, 'bias': bias}
    return flax_parameters, x

  flax_cell = nn.OptimizedLSTMCell(width, parent=None)
  return _recurrent_layer_benchmark(
    LSTM(), flax_cell, 'LSTM', convert_lstm_parameters_to_flax_format, seed, batch, length, width,
    num_gates=4, steps=steps,
  )


def gru_benchmark(seed: int, batch: int, length: int, width: int, steps: int = 0) -> Benchmark:
  """Defines a benchmark of the GRU layer.

  Args:
    seed: Seed of the random parameters and inputs.
    batch: Number of sequences B.
    length: Tokens T of each sequence.
    width: Channels D of the input and of the hidden state.
    steps: Number of gradient descent steps in one compiled loop, or 0 for a single call.

  Returns:
    The benchmark.

  """
  def convert_gru_parameters_to_flax_format(parameters, x):
    input_kernels = jnp.split(parameters['input']['kernel'], 3, 1)
    recurrent_kernels = jnp.split(parameters['recurrent_kernel'], 3, 1)
    biases = jnp.split(parameters['input']['bias'], 3)
    flax_parameters = {
      f'i{gate}': {'kernel': kernel, 'bias': bias}
      for gate, kernel, bias in zip('rzn', input_kernels, biases, strict=True)
    }
    flax_parameters |= {
      f'h{gate}': {'kernel': kernel} for gate, kernel in zip('rzn', recurrent_kernels, strict=True)
    }
    return flax_parameters, x

  def add_second_candidate_bias(flax_parameters):
    candidate = flax_parameters['hn'] | {'bias': jnp.zeros(width)}
    return flax_parameters | {'hn': candidate}

  flax_cell = nn.GRUCell(width, parent=None)
  return _recurrent_layer_benchmark(
    GRU(), flax_cell, 'GRU', convert_gru_parameters_to_flax_format, seed, batch, length, width,
    num_gates=3, steps=steps, add_untrained_parameters=add_second_candidate_bias,
  )
