"""Benchmark of training steps of a small decoder, in this repository, in Flax and in PyTorch.

The decoder has `depth` pre-norm blocks of attention and of a GELU network. The Flax and PyTorch
versions are written as their users write them.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec

from experiments.lab.measure import memory
from experiments.lab.training.optimizer import optimizer
from experiments.speed.benchmark import Benchmark, Implementation
from experiments.speed.benchmarks.training import (
  IGNORED_TARGET,
  LEARNING_RATE,
  TrainingProblem,
  create_training_problem,
  leading_axis_sharding,
  make_training_benchmark,
  prepare_torch_training,
  training_results,
)
from experiments.speed.pytorch.decoder import build_decoder
from transformer.attention import Attention
from transformer.positions import POSITIONS

EXPANSION = 4


def decoder_benchmark(
  seed: int, batch: int, length: int, width: int, depth: int, heads: int, steps: int = 1
) -> Benchmark:
  """Defines a benchmark of one decoder training step, or of a compiled loop of several steps.

  Args:
    seed: Seed of the parameters and of the batches.
    batch: Number of sequences B.
    length: Tokens T of each sequence.
    width: Channels D of the decoder.
    depth: Number of pairs of an attention block and a feed-forward block.
    heads: Number of attention heads.
    steps: Number of training steps per timed call.

  Returns:
    The benchmark.

  """
  sizes = {'batch': batch, 'length': length, 'width': width, 'depth': depth, 'steps': steps}
  problem = create_training_problem(
    Attention(heads, POSITIONS['none']()), seed, sizes, block='pre_norm', feedforward='gelu',
    expansion=EXPANSION)
  vocabulary, _ = problem.embedding_shape
  products_per_token = (
    depth * ((4 + 2 * EXPANSION) * width**2 + length * width) + width * vocabulary)
  return make_training_benchmark(
    problem,
    {
      'flax and optax': functools.partial(compile_flax_decoder, heads),
      'torch eager, fused AdamW': functools.partial(
        prepare_torch_training, functools.partial(build_decoder, heads=heads),
        functools.partial(to_torch_decoder_weights, depth=depth)),
    },
    2 * products_per_token * batch * length,
  )


class FlaxDecoder(nn.Module):
  """Decoder that is composed of the layers of the Flax library."""

  vocabulary: int
  width: int
  depth: int
  heads: int

  @nn.compact
  def __call__(self, tokens):  # [B, T] -> [B, T, V]
    x, mask = nn.Embed(self.vocabulary, self.width)(tokens), nn.make_causal_mask(tokens)
    for _ in range(self.depth):
      y = nn.LayerNorm()(x)
      x = x + nn.MultiHeadDotProductAttention(self.heads, use_bias=False)(y, y, mask=mask)
      y = nn.Dense(EXPANSION * self.width)(nn.LayerNorm()(x))
      x = x + nn.Dense(self.width)(nn.gelu(y))
    return nn.Dense(self.vocabulary)(nn.LayerNorm()(x))


def to_flax_decoder_parameters(parameters: dict, depth: int) -> dict:
  """Converts this repository's parameters into those of `FlaxDecoder`."""
  stack = parameters['stack']
  flax_parameters = {'Embed_0': parameters['embedding']}
  for level in range(depth):
    attention, network = stack[f'level_{2 * level}'], stack[f'level_{2 * level + 1}']
    kernels = jnp.split(attention['layer']['projection']['kernel'], 3, 1)
    flax_parameters[f'MultiHeadDotProductAttention_{level}'] = {
      **{
        name: {'kernel': kernel}
        for name, kernel in zip(('query', 'key', 'value'), kernels, strict=True)
      },
      'out': attention['layer']['output'],
    }
    flax_parameters[f'LayerNorm_{2 * level}'] = attention['norm']
    flax_parameters[f'LayerNorm_{2 * level + 1}'] = network['norm']
    flax_parameters[f'Dense_{2 * level}'] = network['layer']['expand']
    flax_parameters[f'Dense_{2 * level + 1}'] = network['layer']['contract']
  flax_parameters[f'LayerNorm_{2 * depth}'] = parameters['last_norm']
  flax_parameters[f'Dense_{2 * depth}'] = parameters['head']
  return flax_parameters


def compile_flax_decoder(heads: int, problem: TrainingProblem) -> Implementation:
  """Compiles one training step of `FlaxDecoder`.

  A Python loop calls the compiled step for each batch.
  """
  run = problem.training.recipe
  model = FlaxDecoder(*problem.embedding_shape, run.depth, heads)
  start, back = jax.vjp(
    jax.jit(functools.partial(to_flax_decoder_parameters, depth=run.depth)), problem.parameters)
  adamw = optimizer(run)

  def mean_loss(parameters, source, target):
    log_probabilities = jax.nn.log_softmax(model.apply({'params': parameters}, source))
    counted = target != IGNORED_TARGET
    log_probabilities = jnp.take_along_axis(
      log_probabilities, jnp.maximum(target, 0)[..., None], -1)[..., 0]
    return -jnp.sum(jnp.where(counted, log_probabilities, 0)) / jnp.sum(counted)

  def train_step(parameters, moments, source, target):
    loss, gradient = jax.value_and_grad(mean_loss)(parameters, source, target)
    updates, moments = adamw.update(gradient, moments, parameters)
    parameters = jax.tree.map(lambda p, u: p - LEARNING_RATE * u, parameters, updates)
    return parameters, moments, loss

  count = math.gcd(run.batch_size, jax.device_count())
  sharded = leading_axis_sharding(jax.devices()[:count])
  replicated = NamedSharding(sharded.mesh, PartitionSpec())
  start, moments = jax.device_put((start, jax.jit(adamw.init)(start)), replicated)
  timed_batches, verification_batches = jax.device_put(
    (problem.timed_batches, problem.verification_batches), sharded)
  program = (
    jax.jit(train_step, out_shardings=replicated)
    .lower(start, moments, *timed_batches[0]).compile()
  )

  def train_on_batches(batches):
    parameters, current_moments, losses = start, moments, []
    for source, target in batches:
      parameters, current_moments, loss = program(parameters, current_moments, source, target)
      losses.append(loss)
    return parameters, losses

  def flax_training_results():
    parameters, losses = train_on_batches(verification_batches)
    return training_results(losses, *jax.jit(back)(jax.device_get(parameters)))

  call = functools.partial(train_on_batches, timed_batches)
  return Implementation({'steps': call}, flax_training_results, memory.program_memory(program))


def to_torch_decoder_weights(parameters: dict, depth: int) -> dict:
  """Converts this repository's decoder parameters into the weights of the PyTorch decoder."""
  stack, width = parameters['stack'], parameters['embedding']['embedding'].shape[1]
  weights = {'embedding.weight': parameters['embedding']['embedding']}

  def add_weight_and_bias(name, weight, bias=None):
    weights.update(
      {f'{name}.weight': weight} | ({} if bias is None else {f'{name}.bias': bias}))

  for level in range(depth):
    attention, network = stack[f'level_{2 * level}'], stack[f'level_{2 * level + 1}']
    block = f'blocks.{level}'
    add_weight_and_bias(f'{block}.norms.0', attention['norm']['scale'], attention['norm']['bias'])
    add_weight_and_bias(f'{block}.norms.1', network['norm']['scale'], network['norm']['bias'])
    projection, output = (attention['layer'][name]['kernel'] for name in ('projection', 'output'))
    add_weight_and_bias(f'{block}.project', projection.reshape(width, -1).T)
    add_weight_and_bias(f'{block}.output', output.reshape(-1, width).T)
    for name in ('expand', 'contract'):
      dense = network['layer'][name]
      add_weight_and_bias(f'{block}.{name}', dense['kernel'].T, dense['bias'])
  last_norm = parameters['last_norm']
  add_weight_and_bias('last_norm', last_norm['scale'], last_norm['bias'])
  add_weight_and_bias('head', parameters['head']['kernel'].T, parameters['head']['bias'])
  return weights
