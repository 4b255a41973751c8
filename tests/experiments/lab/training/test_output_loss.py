"""Losses and metrics in blocks of scored positions equal those of all logits at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from experiments.lab.measure.primitives import inner_jaxprs
from experiments.lab.measure.work import count_operations_and_bytes_of_jaxpr
from experiments.lab.tasks.adding import Adding
from experiments.lab.tasks.flip_flop import FlipFlop
from experiments.lab.tasks.parity import Parity
from experiments.lab.tasks.recall import Recall
from experiments.lab.tasks.selective_copying import SelectiveCopying
from experiments.lab.tasks.sequence_copying import Copy
from experiments.lab.tasks.task import Batch
from experiments.lab.training import output_loss
from experiments.lab.training.output_loss import select_scored_positions
from tests.support.float64 import float64_enabled
from transformer.attention import Attention
from transformer.block import Block
from transformer.feedforward import FeedForward
from transformer.model import DecoderOnly, EncoderDecoder, tied_embedding
from transformer.stack import Stack

WIDTH = 8
TASKS = {
  'tokens at all positions': FlipFlop(length=8),
  'a fixed number of tokens': Recall(length=12, num_pairs=3, vocabulary_size=16),
  'the last tokens': SelectiveCopying(length=7, num_tokens=3, vocabulary_size=8),
  'one random position': Parity(length=9, answers='last'),
  'reals': Adding(length=5),
}


def small_model(task, tied=False):
  """A model of one block in float64."""
  size = task.output_space.size
  stack = Stack((Block(FeedForward('relu'), 'none'),))
  if tied:
    return DecoderOnly(tied_embedding(size, WIDTH), stack, normalization=None, dtype=jnp.float64)
  real = task.input_space.kind == 'reals'
  embedding = (
    nn.Dense(WIDTH, dtype=jnp.float64) if real else nn.Embed(task.input_space.size, WIDTH))
  return DecoderOnly(embedding, stack, nn.Dense(size), normalization=None, dtype=jnp.float64)


def assert_trees_close(actual, expected):
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-10), actual, expected)


def assert_sums_equal_their_definition(task, model, arguments, batch, smoothing=0.0):
  """Compares losses, their gradient and the metric with those of all outputs at once."""
  def losses_by_definition(parameters):
    outputs, _ = model.apply(parameters, *arguments)
    losses = jnp.sum(batch.weight * task.loss(outputs, batch, smoothing))
    unsmoothed = jnp.sum(batch.weight * task.loss(outputs, batch)), jnp.sum(batch.weight)
    return losses, (task.metric_sums(outputs, batch), unsmoothed)

  def half_losses_in_blocks(parameters):
    features, _ = model.apply(parameters, *arguments, method='features')
    losses = output_loss.sum_losses(model, task, parameters, features, batch, smoothing)
    sums = output_loss.sum_metric_and_losses(model, task, parameters, features, batch)
    return losses / 2, sums

  parameters = jax.tree.map(
    lambda x: x.astype(jnp.float64), jax.jit(model.init)(jax.random.key(1), *arguments))

  @jax.jit
  def values_and_gradients(parameters):
    return [
      jax.value_and_grad(function, has_aux=True)(parameters)
      for function in (losses_by_definition, half_losses_in_blocks)]

  definition, blocks = values_and_gradients(parameters)
  ((losses, sums), gradient), ((half_losses, block_sums), half_gradient) = definition, blocks
  assert_trees_close((2 * half_losses, block_sums), (losses, sums))
  assert_trees_close(jax.tree.map(lambda x: 2 * x, half_gradient), gradient)


@pytest.mark.parametrize('max_logits', [2**20, 40], ids=['one block', 'blocks'])
@pytest.mark.parametrize('name', TASKS)
def test_sums_equal_those_of_all_outputs(name, max_logits, monkeypatch):
  monkeypatch.setattr(output_loss, 'MAX_LOGITS', {'cpu': max_logits})
  task = TASKS[name]
  batch = task.batch('train', 0, 5)
  with float64_enabled():
    assert_sums_equal_their_definition(
      task, small_model(task), (batch.source,), batch,
      smoothing=0.1 if task.output_space.kind == 'tokens' else 0.0)


def test_an_embedding_that_is_also_the_head_gets_both_gradients(monkeypatch):
  monkeypatch.setattr(output_loss, 'MAX_LOGITS', {'cpu': 40})
  task = TASKS['a fixed number of tokens']
  batch = task.batch('train', 0, 5)
  with float64_enabled():
    assert_sums_equal_their_definition(task, small_model(task, tied=True), (batch.source,), batch)


def test_exact_matches_of_an_encoder_decoder_are_counted_over_blocks(monkeypatch):
  monkeypatch.setattr(output_loss, 'MAX_LOGITS', {'cpu': 40})
  task = Copy(max_length=3, alphabet_size=4)
  stack = Stack((Block(FeedForward('relu'), 'none'),))
  embedding = tied_embedding(task.output_space.size, WIDTH)
  model = EncoderDecoder(embedding, stack, stack, normalization=None, dtype=jnp.float64)
  batch = task.batch('train', 0, 5)
  (source, target), _ = task.model_arguments(batch)
  with float64_enabled():
    assert_sums_equal_their_definition(task, model, (source, target), batch)


def test_rows_without_scored_positions_stay_without():
  """Rows that pad an incomplete batch have weight 0 everywhere, and other rows have fewer."""
  weight = jnp.array([[0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 1]], jnp.float32)
  target = jnp.arange(12).reshape(3, 4)
  features, batch = select_scored_positions(
    target[..., None], Batch(target, target, weight), num_scored_positions=2)
  np.testing.assert_array_equal(batch.weight, [[0, 0], [1, 0], [1, 1]])
  np.testing.assert_array_equal(batch.target[2], [9, 11])
  np.testing.assert_array_equal(features[..., 0], batch.target)


def training_step_jaxpr(task, batch_size):
  """The jaxpr of the loss and its gradient at the published width 64 of "Zoology"."""
  stack = Stack((Block(Attention(num_heads=1)),), depth=2)
  model = DecoderOnly(nn.Embed(task.input_space.size, 64), stack, nn.Dense(task.output_space.size))
  batch = jax.eval_shape(lambda: task.batch('train', 0, batch_size))
  parameters = jax.eval_shape(lambda source: model.init(jax.random.key(0), source), batch.source)

  def losses(parameters, batch):
    features, _ = model.apply(parameters, batch.source, method='features')
    return output_loss.sum_losses(model, task, parameters, features, batch)

  return jax.make_jaxpr(jax.value_and_grad(losses))(parameters, batch).jaxpr


class AllPositions(Recall):
  """Recall that does not declare how many positions are scored."""

  @property
  def num_scored_positions(self):
    return None


def test_few_scored_positions_save_most_products_of_a_large_head():
  work = [
    count_operations_and_bytes_of_jaxpr(training_step_jaxpr(task, 512))
    for task in (AllPositions(), Recall())]
  assert work[0].products > 6.5 * work[1].products


def array_sizes(jaxpr):
  """The sizes of all arrays that a jaxpr and its inner jaxprs compute."""
  for equation in jaxpr.eqns:
    yield from (variable.aval.size for variable in equation.outvars)
    for inner in inner_jaxprs(equation):
      yield from array_sizes(inner)


def test_no_array_of_all_logits_exists():
  task, rows = AllPositions(), 512
  logits = rows * task.length * task.output_space.size
  assert max(array_sizes(training_step_jaxpr(task, rows))) < logits / 16
