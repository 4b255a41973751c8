"""Benchmarks of training steps of language models of LSTM and Mamba-2 layers against PyTorch."""

import functools

import jax
import jax.numpy as jnp

from baselines.mamba2 import Mamba2
from baselines.recurrent import LSTM
from experiments.lab.measure import work
from experiments.speed.benchmark import Benchmark
from experiments.speed.benchmarks.training import (
  TrainingProblem,
  create_training_problem,
  make_training_benchmark,
  prepare_torch_training,
)
from experiments.speed.pytorch.lstm_model import build_lstm_model
from experiments.speed.pytorch.mamba2_model import build_mamba2_model


def lstm_model_benchmark(
  seed: int, batch: int, length: int, width: int, depth: int, steps: int = 1
) -> Benchmark:
  """Defines a benchmark of training steps of a language model of stacked LSTM layers.

  The model has neither norms nor residual connections.

  Args:
    seed: Seed of the parameters and of the batches.
    batch: Number of sequences B.
    length: Tokens T of each sequence.
    width: Channels D of the embedding and of the hidden states.
    depth: Number of LSTM layers.
    steps: Number of training steps per timed call.

  Returns:
    The benchmark.

  """
  sizes = {'batch': batch, 'length': length, 'width': width, 'depth': depth, 'steps': steps}
  problem = create_training_problem(LSTM(), seed, sizes, block='plain')
  return _benchmark_against_torch(problem, build_lstm_model, to_torch_lstm_weights)


def mamba2_model_benchmark(
  seed: int, batch: int, length: int, width: int, depth: int, heads: int, state_size: int,
  steps: int = 1,
) -> Benchmark:
  """Defines a benchmark of training steps of a language model of pre-norm Mamba-2 blocks.

  Args:
    seed: Seed of the parameters and of the batches.
    batch: Number of sequences B.
    length: Tokens T of each sequence.
    width: Channels D of the residual stream.
    depth: Number of Mamba-2 layers.
    heads: Number of heads H of each layer.
    state_size: State variables N of each inner channel.
    steps: Number of training steps per timed call.

  Returns:
    The benchmark.

  """
  sizes = {'batch': batch, 'length': length, 'width': width, 'depth': depth, 'steps': steps}
  layer = Mamba2(heads, state_size)
  problem = create_training_problem(layer, seed, sizes, block='pre_norm')
  build_model = functools.partial(
    build_mamba2_model, heads=heads, state_size=state_size, expand=layer.expand,
    kernel_size=layer.kernel_size)
  return _benchmark_against_torch(problem, build_model, to_torch_mamba2_weights)


def _benchmark_against_torch(problem: TrainingProblem, build_model, convert_parameters):
  model, (source, _) = problem.training.model, problem.timed_batches[0]
  prepare = functools.partial(
    prepare_torch_training, build_model,
    functools.partial(convert_parameters, depth=problem.training.recipe.depth))
  return make_training_benchmark(
    problem, {'torch eager, fused AdamW': prepare},
    matmul_flops=work.flops(model.apply, problem.start.parameters, source))


def _weights_outside_of_layers(parameters: dict) -> dict[str, jax.Array]:
  """Returns the weights of the embedding and of the head by their names in PyTorch models."""
  head = parameters['head']
  return {
    'embedding.weight': parameters['embedding']['embedding'],
    'head.weight': head['kernel'].T, 'head.bias': head['bias'],
  }


def to_torch_lstm_weights(parameters: dict, depth: int) -> dict[str, jax.Array]:
  """Converts the parameters of the LSTM model into the weights of the PyTorch model."""
  weights = _weights_outside_of_layers(parameters)
  for level in range(depth):
    layer = parameters['stack'][f'level_{level}']['layer']
    weights |= {
      f'lstm.weight_ih_l{level}': layer['input']['kernel'].T,
      f'lstm.weight_hh_l{level}': layer['recurrent_kernel'].T,
      f'lstm.bias_ih_l{level}': layer['input']['bias'],
      f'lstm.bias_hh_l{level}': jnp.zeros_like(layer['input']['bias']),
    }
  return weights


def to_torch_mamba2_weights(parameters: dict, depth: int) -> dict[str, jax.Array]:
  """Converts the parameters of the Mamba-2 model into the weights of the PyTorch model."""
  blocks = [parameters['stack'][f'level_{level}'] for level in range(depth)]
  weights = _weights_outside_of_layers(parameters)
  for level, norm in enumerate([*(block['norm'] for block in blocks), parameters['last_norm']]):
    weights |= {f'norms.{level}.weight': norm['scale'], f'norms.{level}.bias': norm['bias']}
  for level, block in enumerate(blocks):
    layer = block['layer']
    layer_weights = {
      **{f'{name}.weight': layer[name]['kernel'].T for name in ('input', 'output')},
      'convolution.weight': layer['convolution']['kernel'].T[:, None],
      'convolution.bias': layer['convolution']['bias'],
      'norm.weight': layer['norm']['scale'],
      **{name: layer[name] for name in ('step_bias', 'log_rate', 'skip')},
    }
    weights |= {f'layers.{level}.{name}': weight for name, weight in layer_weights.items()}
  return weights
