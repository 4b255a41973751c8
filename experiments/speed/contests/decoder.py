"""The training step of a small decoder: the lab's, and Flax's and PyTorch's as users write it.

Attention and a GELU network with skips and layer norms before them, `depth` times over tokens; the
loss, its gradient and AdamW. They start from the same parameters and read the same text; that after
a few steps they have the same losses and the same parameters shows that they are the same.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.lab.cells.experiment import resolve
from experiments.lab.cells.run import Run
from experiments.lab.measure import memory
from experiments.lab.tasks.task import Batch
from experiments.lab.tasks.text import Text
from experiments.lab.training.ensemble import AXIS, compile_over
from experiments.lab.training.optimizer import optimizer
from experiments.lab.training.step import Training, TrainState
from experiments.speed import pytorch
from experiments.speed.contest import OURS, Contest, Contestant
from transformer.attention import Attention
from transformer.positions import POSITIONS

RATE, DECAY = 1e-3, 0.1
EXPANSION = 4
TRIED = 3  # steps that must agree where a single one is timed
VOID = -100  # the target that counts for nothing: what PyTorch ignores by default


class Problem(NamedTuple):
  """What all contestants start from, and what they read."""

  training: Training
  heads: int
  start: TrainState
  batches: list[Batch]  # of the steps that are timed

  @property
  def parameters(self) -> dict:
    """The lab's, at the start."""
    return self.start.parameters['params']

  @property
  def read(self) -> list[tuple[jax.Array, jax.Array]]:
    """Sources and targets [B, T] of the steps that are timed; VOID where none counts."""
    return [(one.source, jnp.where(one.weight > 0, one.target, VOID)) for one in self.batches]

  @property
  def tried(self) -> list[tuple[jax.Array, jax.Array]]:
    """The same of the steps that must agree: those timed, or a single one several times."""
    return self.read if len(self.batches) > 1 else self.read * TRIED


def decoder(
  seed: int, batch: int, length: int, width: int, depth: int, heads: int, steps: int = 1
) -> Contest:
  """One training step on a batch that lies ready, or several in one loop that makes its batches."""
  run = Run(
    layer=f'attention(num_heads={heads}, positions=none)', task=f'text(length={length})',
    width=width, depth=depth, feedforward='gelu', expansion=EXPANSION, match='none',
    block='pre_norm',
    dropout=0.0, dtype='float32', optimizer='adamw', label_smoothing=0.0, batch_size=batch,
    steps=steps, validations=1, schedule='constant', warmup=0.0, clip=0.0, weight_decay=DECAY,
    learning_rates=(RATE,),
  )
  # Given, not parsed: the fingerprints of a contest are of what its module imports.
  experiment = resolve(run, Attention(heads, POSITIONS['none']()), Text(length))
  task, training = experiment.task, Training(experiment.model, experiment.task, run)
  draw = jax.jit(functools.partial(task.batch, 'train', batch_size=batch))
  problem = Problem(
    training, heads, jax.jit(training.initialise)(seed, RATE),
    [draw(seed * steps + step) for step in range(steps)],
  )
  vocabulary = task.outputs.size
  each = depth * ((4 + 2 * EXPANSION) * width**2 + length * width) + width * vocabulary
  return Contest(
    {
      OURS: functools.partial(ours, problem),
      'flax and optax': functools.partial(in_flax, problem),
      'torch eager, fused AdamW': functools.partial(in_torch, problem),
    },
    {'gradient': 3 * 2 * each * batch * length * steps},
  )


def ours(problem: Problem) -> Contestant:
  """The lab's step, or its loop, compiled as it trains a single member: its batch shared out."""
  count = math.gcd(problem.training.recipe.batch_size, jax.device_count())
  devices = jax.devices()[:count]
  training = problem.training.shared(count, AXIS)
  start = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), problem.start)
  steps = len(problem.batches)

  def loop(state):
    state, losses = training.advance(state, jnp.zeros(()), steps)
    return state, losses / steps

  if steps > 1:
    compiled = compile_over(devices, 'jit', loop)
    given, times = (), 1
  else:
    compiled = compile_over(devices, 'jit', training.train_step)
    (batch,) = problem.batches
    shares = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
    given, times = (shares,), TRIED
  start, *given = jax.device_put((start, *given), placed(devices))
  program = compiled.lower(start, *given).compile()

  def results():
    state, losses = start, []
    for _ in range(times):
      state, loss = program(state, *given)
      losses.append(loss[0])
    return _result(losses, jax.tree.map(lambda x: x[0], state.parameters['params']))

  call = functools.partial(program, start, *given)
  return Contestant({'gradient': call}, results, memory.of_program(program))


def placed(devices) -> NamedSharding:
  """Arrays whose first axis is shared out between devices."""
  return NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))


def _result(losses, parameters) -> dict:
  """What must agree."""
  return {'loss': jnp.mean(jnp.stack(losses)), 'parameters': parameters}


class FlaxDecoder(nn.Module):
  """The decoder from Flax's own layers."""

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


def to_flax(parameters: dict, depth: int) -> dict:
  """The lab's parameters as those of `FlaxDecoder`."""
  stack = parameters['stack']
  own = {'Embed_0': parameters['embedding']}
  for level in range(depth):
    attention, network = stack[f'level_{2 * level}'], stack[f'level_{2 * level + 1}']
    kernels = jnp.split(attention['layer']['projection']['kernel'], 3, 1)
    own[f'MultiHeadDotProductAttention_{level}'] = {
      **{name: {'kernel': k} for name, k in zip(('query', 'key', 'value'), kernels, strict=True)},
      'out': attention['layer']['output'],
    }
    own[f'LayerNorm_{2 * level}'] = attention['norm']
    own[f'LayerNorm_{2 * level + 1}'] = network['norm']
    own[f'Dense_{2 * level}'] = network['layer']['expand']
    own[f'Dense_{2 * level + 1}'] = network['layer']['contract']
  own[f'LayerNorm_{2 * depth}'] = parameters['last_norm']
  own[f'Dense_{2 * depth}'] = parameters['head']
  return own


def in_flax(problem: Problem) -> Contestant:
  """A compiled step over Flax's layers, called from Python for each batch."""
  run = problem.training.recipe
  vocabulary, width = problem.parameters['embedding']['embedding'].shape
  model = FlaxDecoder(vocabulary, width, run.depth, problem.heads)
  start, back = jax.vjp(jax.jit(functools.partial(to_flax, depth=run.depth)), problem.parameters)
  change = optimizer(run)

  def loss_of(parameters, source, target):
    likely, counts = jax.nn.log_softmax(model.apply({'params': parameters}, source)), target != VOID
    likely = jnp.take_along_axis(likely, jnp.maximum(target, 0)[..., None], -1)[..., 0]
    return -jnp.sum(jnp.where(counts, likely, 0)) / jnp.sum(counts)

  def step(parameters, moments, source, target):
    loss, gradient = jax.value_and_grad(loss_of)(parameters, source, target)
    updates, moments = change.update(gradient, moments, parameters)
    parameters = jax.tree.map(lambda p, u: p - RATE * u, parameters, updates)
    return parameters, moments, loss

  count = math.gcd(run.batch_size, jax.device_count())
  share = placed(jax.devices()[:count])
  whole = NamedSharding(share.mesh, PartitionSpec())
  start, moments = jax.device_put((start, jax.jit(change.init)(start)), whole)
  read, tried = jax.device_put((problem.read, problem.tried), share)
  program = jax.jit(step, out_shardings=whole).lower(start, moments, *read[0]).compile()

  def train(batches):
    parameters, now, losses = start, moments, []
    for source, target in batches:
      parameters, now, loss = program(parameters, now, source, target)
      losses.append(loss)
    return parameters, losses

  def results():
    parameters, losses = train(tried)
    return _result(losses, *jax.jit(back)(jax.device_get(parameters)))

  call = functools.partial(train, read)
  return Contestant({'gradient': call}, results, memory.of_program(program))


def to_torch(parameters: dict, depth: int) -> dict:
  """The lab's parameters as those of `pytorch.decoder`, by name."""
  stack, width = parameters['stack'], parameters['embedding']['embedding'].shape[1]
  own = {'embedding.weight': parameters['embedding']['embedding']}

  def put(name, weight, bias=None):
    own.update({f'{name}.weight': weight} | ({} if bias is None else {f'{name}.bias': bias}))

  for level in range(depth):
    attention, network = stack[f'level_{2 * level}'], stack[f'level_{2 * level + 1}']
    put(f'blocks.{level}.norms.0', attention['norm']['scale'], attention['norm']['bias'])
    put(f'blocks.{level}.norms.1', network['norm']['scale'], network['norm']['bias'])
    put(f'blocks.{level}.project', attention['layer']['projection']['kernel'].reshape(width, -1).T)
    put(f'blocks.{level}.output', attention['layer']['output']['kernel'].reshape(-1, width).T)
    for name in ('expand', 'contract'):
      dense = network['layer'][name]
      put(f'blocks.{level}.{name}', dense['kernel'].T, dense['bias'])
  put('last_norm', parameters['last_norm']['scale'], parameters['last_norm']['bias'])
  put('head', parameters['head']['kernel'].T, parameters['head']['bias'])
  return own


def in_torch(problem: Problem) -> Contestant:
  """PyTorch's eager step, called for each batch."""
  depth = problem.training.recipe.depth
  start, back = jax.vjp(jax.jit(functools.partial(to_torch, depth=depth)), problem.parameters)
  made = pytorch.decoder(
    start, problem.read, problem.tried, depth, problem.heads, RATE, DECAY
  )

  def results():
    losses, parameters = made.results()
    return _result(losses, *jax.jit(back)(parameters))

  return made._replace(results=results)
