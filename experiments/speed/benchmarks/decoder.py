"""Benchmark of training steps of three implementations of a small decoder.

The implementations are that of this repository, one in Flax and one in PyTorch. The decoder has
`depth` pre-norm blocks of attention and of a GELU network. A step computes the loss, its gradient,
and an AdamW update. The Flax and PyTorch versions are written as their users write them. All
versions start from the same parameters and train on the same text. Their losses and parameters are
compared after a few steps.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.lab.cells.experiment import create_experiment
from experiments.lab.cells.run import Run
from experiments.lab.measure import memory
from experiments.lab.tasks.task import Batch
from experiments.lab.tasks.text import Text
from experiments.lab.training.ensemble import AXIS, compile_over_devices
from experiments.lab.training.optimizer import optimizer
from experiments.lab.training.step import Training, TrainState
from experiments.speed import pytorch
from experiments.speed.benchmark import OURS, Benchmark, Implementation
from transformer.attention import Attention
from transformer.positions import POSITIONS

LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.1
EXPANSION = 4
VERIFICATION_STEPS = 3  # training steps before results are compared, if a single step is timed
IGNORED_TARGET = -100  # PyTorch's default for targets that do not count towards the loss


class TrainingProblem(NamedTuple):
  """Initial parameters and training batches that all decoder implementations share."""

  training: Training
  heads: int
  start: TrainState
  batches: list[Batch]  # one per timed step

  @property
  def parameters(self) -> dict:
    """Initial parameters in this repository's layout."""
    return self.start.parameters['params']

  @property
  def timed_batches(self) -> list[tuple[jax.Array, jax.Array]]:
    """Source and target token ids [B, T] per timed step, with target -100 for ignored tokens."""
    return [
      (batch.source, jnp.where(batch.weight > 0, batch.target, IGNORED_TARGET))
      for batch in self.batches
    ]

  @property
  def verification_batches(self) -> list[tuple[jax.Array, jax.Array]]:
    """Batches for the training steps whose results are compared between implementations.

    If only one batch is timed, these steps repeat that batch.
    """
    copies = 1 if len(self.batches) > 1 else VERIFICATION_STEPS
    return self.timed_batches * copies


def decoder_benchmark(
  seed: int, batch: int, length: int, width: int, depth: int, heads: int, steps: int = 1
) -> Benchmark:
  """Defines a benchmark of one decoder training step, or of a compiled loop of several steps.

  A single step receives a prepared batch, while this repository's loop generates its batches.

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
  run = Run(
    layer=f'attention(num_heads={heads}, positions=none)', task=f'text(length={length})',
    width=width, depth=depth, feedforward='gelu', expansion=EXPANSION, match='none',
    block='pre_norm',
    dropout=0.0, dtype='float32', optimizer='adamw', label_smoothing=0.0, batch_size=batch,
    steps=steps, validations=1, schedule='constant', warmup=0.0, clip=0.0,
    weight_decay=WEIGHT_DECAY, learning_rates=(LEARNING_RATE,),
  )
  # A benchmark record contains hashes of the source files of all modules imported here.
  # The layer and the task are imported, because a module that is named in a string is not hashed.
  experiment = create_experiment(run, Attention(heads, POSITIONS['none']()), Text(length))
  task, training = experiment.task, Training(experiment.model, experiment.task, run)
  draw_batch = jax.jit(functools.partial(task.batch, 'train', batch_size=batch))
  problem = TrainingProblem(
    training, heads, jax.jit(training.initialise)(seed, LEARNING_RATE),
    [draw_batch(seed * steps + step) for step in range(steps)],
  )
  vocabulary = task.output_space.size
  products_per_token = (
    depth * ((4 + 2 * EXPANSION) * width**2 + length * width) + width * vocabulary)
  return Benchmark(
    {
      OURS: functools.partial(compile_our_decoder, problem),
      'flax and optax': functools.partial(compile_flax_decoder, problem),
      'torch eager, fused AdamW': functools.partial(prepare_eager_torch_decoder, problem),
    },
    {'gradient': 3 * 2 * products_per_token * batch * length * steps},
  )


def compile_our_decoder(problem: TrainingProblem) -> Implementation:
  """Compiles this repository's training step or loop with the batch sharded over devices."""
  count = math.gcd(problem.training.recipe.batch_size, jax.device_count())
  devices = jax.devices()[:count]
  training = problem.training.with_batches_divided_over_devices(count, AXIS)
  start = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), problem.start)
  steps = len(problem.batches)

  def train_for_all_steps(state):
    state, losses = training.train_for_steps(state, jnp.zeros(()), steps)
    return state, losses / steps

  if steps > 1:
    compiled = compile_over_devices(devices, 'jit', train_for_all_steps)
    batch_arguments, repeats = (), 1
  else:
    compiled = compile_over_devices(devices, 'jit', training.train_step)
    (batch,) = problem.batches
    shards = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
    batch_arguments, repeats = (shards,), VERIFICATION_STEPS
  start, *batch_arguments = jax.device_put(
    (start, *batch_arguments), leading_axis_sharding(devices))
  program = compiled.lower(start, *batch_arguments).compile()

  def our_training_results():
    state, losses = start, []
    for _ in range(repeats):
      state, loss = program(state, *batch_arguments)
      losses.append(loss[0])
    return _training_results(losses, jax.tree.map(lambda x: x[0], state.parameters['params']))

  call = functools.partial(program, start, *batch_arguments)
  return Implementation({'gradient': call}, our_training_results, memory.program_memory(program))


def leading_axis_sharding(devices) -> NamedSharding:
  """Returns the sharding that splits the first axis of an array over devices."""
  return NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))


def _training_results(losses, parameters) -> dict:
  """Returns a dict of the mean training loss and the trained parameters."""
  return {'loss': jnp.mean(jnp.stack(losses)), 'parameters': parameters}


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


def compile_flax_decoder(problem: TrainingProblem) -> Implementation:
  """Compiles one training step of `FlaxDecoder`.

  A Python loop calls the compiled step for each batch.
  """
  run = problem.training.recipe
  vocabulary, width = problem.parameters['embedding']['embedding'].shape
  model = FlaxDecoder(vocabulary, width, run.depth, problem.heads)
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
    return _training_results(losses, *jax.jit(back)(jax.device_get(parameters)))

  call = functools.partial(train_on_batches, timed_batches)
  return Implementation({'gradient': call}, flax_training_results, memory.program_memory(program))


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


def prepare_eager_torch_decoder(problem: TrainingProblem) -> Implementation:
  """Prepares a Python loop that trains the PyTorch decoder in eager mode on all batches."""
  depth = problem.training.recipe.depth
  start, back = jax.vjp(
    jax.jit(functools.partial(to_torch_decoder_weights, depth=depth)), problem.parameters)
  implementation = pytorch.prepare_eager_decoder_training(
    start, problem.timed_batches, problem.verification_batches, depth, problem.heads,
    LEARNING_RATE, WEIGHT_DECAY,
  )

  def torch_training_results():
    losses, weights = implementation.results()
    return _training_results(losses, *jax.jit(back)(weights))

  return implementation._replace(results=torch_training_results)
