"""Losses and metrics at the scored positions, without an array of all logits.

A head maps D features to V logits at each position, and in a language model of small width these
products and arrays are most of a training step. Two measures keep them small.

  scored positions   If a task scores a fixed number P of the T positions of a sequence, head and
                     loss are applied to these P positions alone. In associative recall with 4 of 64
                     positions and a vocabulary of 8192, a training step of a two-layer model of
                     width 64 has 6.6 times fewer products.
  blocks             A large number of logits is computed in blocks of positions. The gradient of a
                     block is formed right after its loss, so that its logits are neither stored nor
                     computed twice.

The losses, metrics and gradients are those of all positions at once, up to rounding.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.lab.tasks.task import Batch, Task
from transformer import platform

# The largest number of logits that are computed at once, 4 MiB of float32 on a CPU, where larger
# arrays leave the cache, and 256 MiB elsewhere.
MAX_LOGITS = {'cpu': 2**20}
MAX_ACCELERATOR_LOGITS = 2**26


def select_scored_positions(
  features: jax.Array, batch: Batch, num_scored_positions: int | None
) -> tuple[jax.Array, Batch]:
  """Selects the scored positions of each sequence.

  Args:
    features: features [B, T, D] of a model.
    batch: the batch, with targets and weights at T positions.
    num_scored_positions: the number P of positions of weight 1 in each sequence, or None to select
      all positions.

  Returns:
    The features [B, P, D], and the batch with targets and weights at P positions, in their order.

  """
  length = batch.weight.shape[1]
  if num_scored_positions in (None, length):
    return features, batch
  # Earlier positions have larger keys, and positions of weight 0 have the key 0.
  keys = (batch.weight > 0) * jnp.arange(length, 0, -1, dtype=jnp.float32)[None]
  positions = jax.lax.top_k(keys, num_scored_positions)[1]

  def at_positions(x):  # [B, T, ...] -> [B, P, ...]
    return jnp.take_along_axis(x, positions.reshape(*positions.shape, *(1,) * (x.ndim - 2)), 1)

  selected = batch._replace(target=at_positions(batch.target), weight=at_positions(batch.weight))
  return at_positions(features), selected


def sum_losses(
  model: nn.Module, task: Task, parameters: Any, features: jax.Array, batch: Batch,
  label_smoothing: float = 0.0,
) -> jax.Array:
  """Computes the weighted sum of the losses at the scored positions of a batch.

  Args:
    model: a `DecoderOnly` or `EncoderDecoder` model.
    task: the task, which defines the loss.
    parameters: the parameters of the model.
    features: the features [B, T, D] that the model computes for the batch.
    batch: the batch.
    label_smoothing: as in `Task.loss`.

  Returns:
    The sum [], in nats for tokens.

  """
  features, batch = select_scored_positions(features, batch, task.num_scored_positions)
  loss = functools.partial(_sum_losses_of_block, model, task, label_smoothing)
  head = model.select_head_parameters(parameters)
  blocks = _split_into_blocks(task, features, batch)
  if len(blocks[0]) == 1:
    return loss(head, *jax.tree.map(lambda x: x[0], blocks))
  return _sum_over_blocks(loss, head, *blocks)


def sum_metric_and_losses(
  model: nn.Module, task: Task, parameters: Any, features: jax.Array, batch: Batch
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
  """Computes the sums of the metric and of the losses of a batch, and the divisors of their means.

  Args:
    model: a `DecoderOnly` or `EncoderDecoder` model.
    task: the task, which defines metric and loss.
    parameters: the parameters of the model.
    features: the features [B, T, D] that the model computes for the batch.
    batch: the batch.

  Returns:
    The result of `Task.metric_sums`, and the weighted sum of the losses with the sum of weights.

  """
  features, batch = select_scored_positions(features, batch, task.num_scored_positions)
  head = model.select_head_parameters(parameters)

  def metric_and_losses_of_block(block):
    features, block = block
    outputs = model.apply(head, features, method='outputs')
    return task.metric_values(outputs, block), task.loss(outputs, block)

  blocks = _split_into_blocks(task, features, batch)
  values, losses = (
    x.reshape(-1)[: batch.weight.size].reshape(batch.weight.shape)
    for x in jax.lax.map(metric_and_losses_of_block, blocks))
  sums = jnp.sum(batch.weight * losses), jnp.sum(batch.weight)
  return task.sum_metric(values, batch), sums


def _sum_losses_of_block(
  model: nn.Module, task: Task, label_smoothing: float, head: Any, features: jax.Array,
  block: Batch,
) -> jax.Array:
  outputs = model.apply(head, features, method='outputs')
  return jnp.sum(block.weight * task.loss(outputs, block, label_smoothing))


def _split_into_blocks(task: Task, features: jax.Array, batch: Batch) -> tuple[jax.Array, Batch]:
  """Splits positions into blocks [num_blocks, 1, n, ...] of at most the largest number of logits.

  The last block is padded with positions of weight 0. A block has no source, because loss and
  metric at a position depend on output and target alone.
  """
  positions = batch.weight.size
  limit = MAX_LOGITS.get(platform.current_platform(), MAX_ACCELERATOR_LOGITS)
  num_blocks = -(-positions * task.output_space.size // limit)
  size = -(-positions // num_blocks)

  def split(x):  # [B, P, ...] -> [num_blocks, 1, n, ...]
    x = x.reshape(positions, *x.shape[2:])
    x = jnp.pad(x, ((0, num_blocks * size - positions),) + ((0, 0),) * (x.ndim - 1))
    return x.reshape(num_blocks, 1, size, *x.shape[1:])

  return split(features), Batch((), split(batch.target), split(batch.weight))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum_over_blocks(
  function: Callable[[Any, jax.Array, Batch], jax.Array], parameters: Any, features: jax.Array,
  batch: Batch,
) -> jax.Array:
  """Sums function(parameters, features, batch) over blocks, which are entries of the first axis."""
  def add_block(total, block):
    return total + function(parameters, *block), None

  zero = _zeros_of_sum(function, parameters, features, batch)
  return jax.lax.scan(add_block, zero, (features, batch))[0]


def _zeros_of_sum(function, parameters, features, batch):
  """Returns a zero of the dtype that the function has on a block."""
  first = jax.tree.map(lambda x: x[0], (features, batch))
  return jnp.zeros((), jax.eval_shape(function, parameters, *first).dtype)


def _sum_over_blocks_forward(function, parameters, features, batch):
  """Computes the sum together with its gradient with respect to parameters and features."""
  gradient_of_block = jax.value_and_grad(function, argnums=(0, 1))

  def add_block(sums, block):
    value, (parameter_gradient, feature_gradient) = gradient_of_block(parameters, *block)
    return jax.tree.map(jnp.add, sums, (value, parameter_gradient)), feature_gradient

  zeros = (
    _zeros_of_sum(function, parameters, features, batch),
    jax.tree.map(jnp.zeros_like, parameters),
  )
  (total, parameter_gradient), feature_gradient = jax.lax.scan(add_block, zeros, (features, batch))
  return total, (parameter_gradient, feature_gradient)


def _sum_over_blocks_backward(function, gradients, cotangent):
  del function
  return *jax.tree.map(lambda x: (cotangent * x).astype(x.dtype), gradients), None


_sum_over_blocks.defvjp(_sum_over_blocks_forward, _sum_over_blocks_backward)
