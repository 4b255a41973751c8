"""Benchmarks of LSTM and GRU layers against Flax's recurrent cells and PyTorch's layers."""

import functools

import jax.numpy as jnp
from flax import linen as nn

from baselines.recurrent import GRU, LSTM
from experiments.speed import pytorch
from experiments.speed.benchmark import Alternative, Benchmark, make_benchmark
from experiments.speed.benchmarks.inputs import layer_function_and_arguments


def _recurrent_layer_benchmark(
  layer, flax_cell, torch_class, to_flax_parameters, seed, batch, length, width, gates
) -> Benchmark:
  ours, arguments = layer_function_and_arguments(layer, seed, (batch, length, width))
  flax_rnn = nn.RNN(flax_cell)

  def to_torch_rnn_weights(parameters, x):
    weights = {
      'weight_ih_l0': parameters['input']['kernel'].T,
      'weight_hh_l0': parameters['recurrent_kernel'].T,
      'bias_ih_l0': parameters['input']['bias'],
      'bias_hh_l0': jnp.zeros_like(parameters['input']['bias']),
    }
    return weights, x

  def apply_flax_rnn(parameters, x):
    return flax_rnn.apply({'params': {'cell': parameters}}, x)

  return make_benchmark(
    ours,
    arguments,
    (None, 0, 0),
    {
      f'flax RNN({type(flax_cell).__name__})': Alternative(apply_flax_rnn, to_flax_parameters),
      f'torch.nn.{torch_class}': Alternative(
        functools.partial(pytorch.recurrent_layer_call, torch_class), to_torch_rnn_weights,
        prepare=pytorch.prepare_torch_implementation,
      ),
    },
    matmul_flops=2 * 2 * batch * length * gates * width**2,
  )


def lstm_benchmark(seed: int, batch: int, length: int, width: int) -> Benchmark:
  """Defines a benchmark of the LSTM layer.

  Args:
    seed: Seed of the random parameters and inputs.
    batch: Number of sequences B.
    length: Tokens T of each sequence.
    width: Channels D of the input and of the hidden state.

  Returns:
    The benchmark.

  """
  def to_flax_lstm_parameters(parameters, x):
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
    LSTM(), flax_cell, 'LSTM', to_flax_lstm_parameters, seed, batch, length, width, gates=4)


def gru_benchmark(seed: int, batch: int, length: int, width: int) -> Benchmark:
  """Defines a benchmark of the GRU layer.

  Args:
    seed: Seed of the random parameters and inputs.
    batch: Number of sequences B.
    length: Tokens T of each sequence.
    width: Channels D of the input and of the hidden state.

  Returns:
    The benchmark.

  """
  def to_flax_gru_parameters(parameters, x):
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
    flax_parameters['hn']['bias'] = jnp.zeros_like(biases[2])
    return flax_parameters, x

  flax_cell = nn.GRUCell(width, parent=None)
  return _recurrent_layer_benchmark(
    GRU(), flax_cell, 'GRU', to_flax_gru_parameters, seed, batch, length, width, gates=3)
