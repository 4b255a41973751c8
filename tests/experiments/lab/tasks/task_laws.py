"""The laws of a task, each a function of a task that raises where the law is broken."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lab.tasks.task import SPLITS

BATCH_SIZE, NUM_BATCHES = 256, 4


@functools.cache
def sample(task, split):
  """Consecutive batches, stacked: leaves are [NUM_BATCHES, B, ...]."""
  batches = [task.batch(split, index, BATCH_SIZE) for index in range(NUM_BATCHES)]
  return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)


def pooled(batches):
  """Many batches as one, on the device."""
  return jax.tree.map(lambda leaf: jnp.asarray(leaf.reshape(-1, *leaf.shape[2:])), batches)


def metrics(task, answer, split='test'):
  """The metric of an answer (oracle or guess) on each of many sequences."""
  batch = pooled(sample(task, split))
  one_by_one = jax.tree.map(lambda leaf: leaf[:, None], (answer(batch.source), batch))
  total, count = jax.vmap(task.measure)(*one_by_one)
  return np.asarray(total, np.float64) / np.asarray(count)


def rows(batches):
  """The sequences of batches as a set of byte strings."""
  return {row.tobytes() for row in np.asarray(pooled(batches).source)}


def assert_same(actual, expected):
  """Equal tokens; equal reals up to the order in which a compiler adds."""
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6),
               actual, expected)


def law_spaces_are_as_declared(task):
  for split in SPLITS:
    batch = pooled(sample(task, split))
    for values, space in ((batch.source, task.inputs), (batch.target, task.outputs)):
      tokens = space.kind == 'tokens'
      assert values.dtype == (jnp.int32 if tokens else jnp.float32)
      assert values.shape[2:] == (() if tokens else (space.size,))
      assert not tokens or (values.min() >= 0 and values.max() < space.size)
    assert batch.weight.dtype == jnp.float32
    assert batch.weight.shape == batch.target.shape[:2]
    for answer in (task.oracle, task.baseline):
      outputs = answer(batch.source)
      assert outputs.shape == (*batch.weight.shape, task.outputs.size)
      assert task.loss(outputs, batch).shape == batch.weight.shape


def law_same_index_same_batch(task):
  """Compiled or not, with an index that is traced or not."""
  third = jax.tree.map(lambda leaf: leaf[3], sample(task, 'test'))
  compiled = jax.jit(lambda index: task.batch('test', index, BATCH_SIZE))
  assert_same(compiled(jnp.int32(3)), third)
  assert_same(task.batch('test', jnp.int32(3), BATCH_SIZE), third)


def law_sequences_vary(task):
  """From batch to batch, and within each."""
  source = sample(task, 'train').source
  assert len({batch.tobytes() for batch in source}) == NUM_BATCHES
  for batch in source:
    assert len({row.tobytes() for row in batch}) > 1


def law_splits_are_disjoint(task):
  """Two splits share no more sequences than two stretches of one split do by coincidence."""
  sequences = {split: rows(sample(task, split)) for split in SPLITS}
  early, late = (rows(jax.tree.map(lambda leaf, i=i: leaf[i::2], sample(task, 'train')))
                 for i in range(2))
  coincidences = 4 * len(early & late)  # expected between two splits, each twice as long
  allowed = coincidences + 10 * np.sqrt(coincidences + 1)
  assert allowed < len(sequences['train']), 'too few different sequences: nothing can be said'
  for one, other in itertools.combinations(SPLITS, 2):
    assert len(sequences[one] & sequences[other]) <= allowed


def law_weights_mark_only_what_can_be_scored(task):
  for split in SPLITS:
    batch = pooled(sample(task, split))
    assert set(np.unique(batch.weight)) <= {0.0, 1.0}
    assert np.all(np.sum(batch.weight, 1) > 0)
    assert np.max(batch.weight * task.loss(task.oracle(batch.source), batch)) < 1e-5


def law_what_has_no_weight_is_not_judged(task):
  batch = pooled(sample(task, 'test'))
  judged = batch.weight[..., None] if task.outputs.kind == 'reals' else batch.weight
  other = jnp.where(judged > 0, batch.target, jnp.roll(batch.target, 1, 1))
  outputs = task.baseline(batch.source)
  corrupt = jnp.where(batch.weight[..., None] > 0, outputs, jnp.flip(outputs, -1) + 1)
  assert_same(task.measure(corrupt, batch._replace(target=other)), task.measure(outputs, batch))
  nothing = batch._replace(weight=jnp.zeros_like(batch.weight))
  assert_same(task.measure(outputs, nothing), (jnp.zeros(()), jnp.zeros(())))


def law_oracle_is_perfect(task):
  for split in SPLITS:
    np.testing.assert_allclose(metrics(task, task.oracle, split), task.metric.perfect, atol=1e-6)


def law_guess_scores_chance(task):
  """Within five standard errors of the mean over sequences, which are independent."""
  values = metrics(task, task.baseline)
  error = values.std(ddof=1) / np.sqrt(values.size)
  assert abs(values.mean() - task.chance) <= 5 * error + 1e-6
  assert 5 * error < abs(task.metric.perfect - task.chance) / 2, 'too noisy: nothing can be said'


def law_guess_does_not_look(task):
  source = pooled(sample(task, 'test')).source
  assert_same(task.baseline(source), task.baseline(source[::-1]))


def law_scores_run_from_chance_to_perfect(task):
  assert task.score(task.chance) == 0
  assert task.score(task.metric.perfect) == 1
  assert task.solved is None or 0.9 < task.score(task.solved) <= 1


def law_distance_can_be_set(task):
  """And what a model learnt at one distance can be asked at another."""
  assert task.at(task.distance) == task
  for longer in (task.at(2 * task.distance), task.beyond(2 * task.distance)):
    assert type(longer) is type(task)
    assert longer.distance == 2 * task.distance
    assert (longer.inputs, longer.outputs) == (task.inputs, task.outputs)
    assert jax.eval_shape(lambda: longer.batch('train', 0, 2)).weight.shape[0] == 2  # noqa: B023


def law_records_are_values(task):
  assert dataclasses.replace(task) == task
  assert hash(dataclasses.replace(task)) == hash(task)
  with pytest.raises(dataclasses.FrozenInstanceError):
    task.family = 'other'
  with pytest.raises(ValueError, match='train, validation, test'):
    task.batch('holdout', 0, 2)


LAWS = {name.removeprefix('law_'): law for name, law in list(globals().items())
        if name.startswith('law_')}
