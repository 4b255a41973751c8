"""Checkpoints are whole or passed over; streamed training goes on as if it had not been stopped."""

import dataclasses
import functools
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
from typing import NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import logging
from flax import linen as nn

from experiments.lab.corpora.reserved import END
from experiments.lab.tasks.task import SPLITS, certain
from experiments.lab.tasks.transduction import Transduction
from experiments.lab.training.checkpoints import CheckpointError, Checkpoints
from experiments.lab.training.recipe import Recipe
from experiments.lab.training.step import Training
from experiments.lab.training.streaming import Streamed, train

ROOT = pathlib.Path(__file__).parents[4]
RECIPE = Recipe(
  steps=9, batch_size=8, validations=3, validation_batches=5, test_batches=2, average=2
)
MEMBERS = ((0, 0.03), (1, 0.1), (0, 1e38))  # of which one diverges
READ = []  # the (split, index) of batches that were read


@dataclasses.dataclass(frozen=True)
class Shifts(Transduction):
  """Each token's successor, in batches of two shapes, made by the host."""

  vocabulary_size: int = 8
  source_length: int = 6
  target_length: int = 6
  distance: int = 6
  chance: float = 0.0
  streams = True

  def batch(self, split, index, batch_size):
    READ.append((split, index))
    random = np.random.RandomState([SPLITS.index(split), index])
    shape = (8, 4) if split == 'train' and index % 2 else (7, 6)
    source = random.randint(3, 8, shape).astype(np.int32)
    target = np.where(source == 7, 3, source + 1).astype(np.int32)
    source[:, -1] = target[:, -1] = END
    return self.sealed(source, target)

  def batches(self, split, batch_size):
    return 3

  def at(self, distance):
    return self

  def text(self, tokens):
    return str(tokens)

  def test_sentences(self, index, batch_size):
    batch = self.batch('test', index, batch_size)
    return [(self.text(row), self.text(row)) for row in batch.source]

  def tokens(self, text):
    return [int(text), END]

  def oracle(self, source):
    return certain(source, 8)

  def baseline(self, source):
    return certain(source, 8)


class Table(nn.Module):
  """An answer to each token, whatever stands around it."""

  dropout: float = 0.2
  size: int = 8

  @nn.compact
  def __call__(self, source, target=None, *, mask=None, train=False):
    hidden = nn.Dropout(self.dropout, deterministic=not train)(nn.Embed(self.size, 5)(source))
    return nn.Dense(self.size)(hidden), ()


class Tree(NamedTuple):
  """A state of training, in small."""

  step: np.ndarray
  parameters: dict


def tree_of(seed):
  random = np.random.default_rng(seed)
  return Tree(np.array(seed, np.int32), {
    'kernel': random.normal(size=(3, 2)).astype(np.float32),
    'half': jnp.asarray(random.normal(size=4), jnp.bfloat16),
  })


def equal(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_array_equal(a, e, strict=True)


@pytest.fixture
def saved(tmp_path):
  """Checkpoints 1 to 4, of which three are kept."""
  checkpoints = Checkpoints(tmp_path / 'own', {'vocabulary': 'abc'}, keep=3)
  assert checkpoints.restore(tree_of(0)) is None and checkpoints.average(tree_of(0)) is None
  for step in range(1, 5):
    checkpoints.save(step, tree_of(step), {'curve': [step, math.nan]})
  return checkpoints


@pytest.fixture
def warned(monkeypatch):
  """The warnings that are given."""
  said = []
  monkeypatch.setattr(logging, 'warning', lambda text, *words: said.append(text % words))
  return said


def test_what_is_saved_comes_back_as_it_was_and_the_newest_are_kept(saved, warned):
  found = saved.restore(tree_of(0))
  equal(found.state, jax.tree.map(np.asarray, tree_of(4)))
  assert found.step == 4 and found.notes['curve'][0] == 4 and math.isnan(found.notes['curve'][1])
  assert sorted(os.listdir(saved.folder)) == ['2', '3', '4']
  saved.save(4, tree_of(9))  # which is there
  equal(saved.restore(tree_of(0)).state, found.state)
  assert warned == []


def flip(file):
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(data)


DAMAGE = {
  'a bit of the arrays': lambda place: flip(
    max((f for f in place.rglob('*') if f.is_file()), key=lambda f: f.stat().st_size)),
  'a bit of the notes': lambda place: flip(place / 'notes.json'),
  'a bit of the manifest': lambda place: flip(place / 'manifest.json'),
  'no manifest': lambda place: (place / 'manifest.json').unlink(),
  'a file too many': lambda place: (place / 'arrays/d/more').write_bytes(b''),
  'a link': lambda place: place.rename(place.parent / 'x') and place.symlink_to(
    place.parent / 'x', target_is_directory=True),
}


@pytest.mark.parametrize('name', DAMAGE)
def test_what_is_damaged_is_passed_over_for_the_newest_that_is_whole(saved, warned, name):
  (saved.folder / '7').mkdir()
  (saved.folder / '8.incomplete').mkdir()
  DAMAGE[name](saved.folder / '4')
  assert saved.restore(tree_of(0)).step == 3
  assert len(warned) == 2 and all('passed over' in text for text in warned)
  Checkpoints(saved.folder, saved.identity, keep=1).save(4, tree_of(4))
  equal(saved.restore(tree_of(0)).state, jax.tree.map(np.asarray, tree_of(4)))
  assert '3' not in os.listdir(saved.folder)


def test_the_average_is_the_mean_of_the_last_parameters(saved):
  mean = saved.average(tree_of(0), last=2)
  one, two = (np.asarray(tree_of(step).parameters['kernel'], np.float64) for step in (3, 4))
  np.testing.assert_allclose(mean.state.parameters['kernel'], (one + two) / 2, atol=1e-7)
  assert mean.state.parameters['half'].dtype == jnp.bfloat16
  assert mean.step == mean.state.step == 4
  every = np.mean([tree_of(step).parameters['kernel'] for step in (2, 3, 4)], 0)
  np.testing.assert_allclose(
    saved.average(tree_of(0), last=9).state.parameters['kernel'], every, atol=1e-7)


@pytest.mark.parametrize(('change', 'words'), [
  (lambda p: p | {'kernel': p['kernel'][:2]}, 'float32[3, 2] at .parameters'),
  (lambda p: p | {'kernel': p['kernel'].astype(np.float64)}, 'the model float64[3, 2]'),
  (lambda p: p | {'more': p['half']}, 'has nothing at'),
  (lambda p: {'kernel': p['kernel']}, 'the model nothing'),
])
def test_a_checkpoint_of_another_model_is_refused_in_one_line(saved, change, words):
  like = tree_of(0)
  with pytest.raises(CheckpointError) as caught:
    saved.restore(like._replace(parameters=change(like.parameters)))
  assert words in str(caught.value) and '\n' not in str(caught.value)


def test_a_checkpoint_of_another_vocabulary_is_refused_in_one_line(saved):
  with pytest.raises(CheckpointError, match="are of vocabulary='abc', not 'xyz'"):
    Checkpoints(saved.folder, {'vocabulary': 'xyz'}).restore(tree_of(0))
  with pytest.raises(ValueError, match='keep=0'):
    Checkpoints(saved.folder, {}, keep=0)
  with pytest.raises(CheckpointError, match='no checkpoint can be made'):
    Checkpoints(saved.folder / '4' / 'notes.json', {}).save(1, tree_of(1))


@functools.cache  # an ensemble remembers nothing but its programs
def streamed(members=MEMBERS, parallel='jit', devices=2, dropout=0.2):
  return Streamed(Training(Table(dropout), Shifts(), RECIPE), members, parallel,
                  jax.devices()[:devices])


def finished(ensemble, checkpoints=None, timeout=math.inf, progress=lambda *_: None):
  """What becomes of the members, as JSON, in which NaN equals NaN; and their last states."""
  ends = []
  keep = lambda _, states: ends.append(ensemble.gather(states))  # noqa: E731
  training = ensemble.training
  members = train(ensemble, training.task, training.recipe, timeout, progress, [ensemble], keep,
                  checkpoints)
  return [json.dumps(dataclasses.asdict(member)) for member in members], ends[0]


@functools.cache
def undisturbed():
  """What a run comes to, the batches that it reads, and the shapes that it traces."""
  READ.clear()
  traced, step = [], Training.train_step
  with mock.patch.object(Training, 'train_step', lambda self, state, batch: traced.append(
      batch.source.shape) or step(self, state, batch)):
    return *finished(streamed()), list(READ), traced


def test_members_read_the_same_batches_in_order_and_every_split_at_most_once():
  members, states, read, _ = undisturbed()
  assert [index for split, index in read if split == 'train'] == [0, *range(RECIPE.steps)]
  looks = [index for split, index in read if split == 'validation']
  assert looks == [0, 1, 2] * 3  # of five asked for there are three
  assert [index for split, index in read if split == 'test'] == [0, 1] * 2  # farther as well
  *finite, diverged = map(json.loads, members)
  for member in finite:
    assert member['status'] == 'finished' and len(member['curve']) == 3
    assert member['extrapolation'] == [member['test']]
  assert finite[0]['curve'] != finite[1]['curve']
  assert diverged['status'] == 'diverged' and math.isnan(diverged['test'])
  assert states.step.tolist() == [9, 9, diverged['steps']]


@pytest.mark.parametrize('split', ['validation', 'test'])
def test_members_are_judged_by_sums_over_batches_and_tested_with_their_average(split):
  members, states, *_ = undisturbed()
  task, parameters = Shifts(), states.parameters
  if split == 'test':
    parameters = jax.tree.map(lambda total: total / RECIPE.average, states.average)
  parameters = jax.tree.map(lambda leaf: leaf[0], parameters)
  loss = right = weight = rows = 0
  for index in range({'validation': 3, 'test': 2}[split]):
    batch = task.batch(split, index, 8)
    outputs, _ = Table().apply(parameters, batch.source)
    loss += np.sum(batch.weight * task.loss(outputs, batch))
    weight += batch.weight.sum()
    right, rows = (a + b for a, b in zip((right, rows), task.measure(outputs, batch), strict=True))
  member = json.loads(members[0])
  np.testing.assert_allclose(member[f'{split}_loss'], loss / weight, rtol=1e-5)
  np.testing.assert_allclose(member[split], right / rows, rtol=1e-5)


def test_a_program_is_compiled_once_for_each_shape():
  assert sorted(undisturbed()[3]) == [(7, 6), (8, 4)]


def close(actual, expected):
  for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a[0], e[0], rtol=1e-5, atol=1e-6)


def test_a_member_trains_alone_by_pmap_as_among_others_by_jit():
  members, states = finished(streamed(MEMBERS[:1], 'pmap', 1))
  among, others, *_ = undisturbed()
  curves = [json.loads(own[0])['curve'] for own in (members, among)]
  np.testing.assert_allclose(*curves, rtol=1e-5)
  close(states, others)


@pytest.mark.slow
def test_devices_that_share_batches_train_as_one_and_rows_left_over_count_for_nothing():
  one, four = (streamed(MEMBERS[:1], 'jit', devices, dropout=0.0) for devices in (1, 4))
  assert len(four.devices) == 4
  (one, first), (four, second) = finished(one), finished(four)
  np.testing.assert_allclose(*(json.loads(own[0])['curve'] for own in (one, four)), rtol=1e-5)
  close(first, second)


def test_a_run_that_is_interrupted_saves_and_ends_as_if_it_was_not(tmp_path, handlers):
  checkpoints = Checkpoints(tmp_path, {}, keep=2)

  def interrupt(part, words):
    if part > 0.5:
      os.kill(os.getpid(), signal.SIGTERM)  # the next step, in the middle of a call, is its last

  with pytest.raises(KeyboardInterrupt, match='stopped after step 7'):
    finished(streamed(), checkpoints, progress=interrupt)
  assert sorted(os.listdir(tmp_path)) == ['6', '7']
  members, states = finished(streamed(), checkpoints)
  assert members == undisturbed()[0]
  equal(states, undisturbed()[1])
  assert finished(streamed(), checkpoints)[0] == members  # nothing is left to do but the tests


KILLED = """
import os, signal, sys
import tests.conftest
from experiments.lab.training.checkpoints import Checkpoints
from tests.experiments.lab.training.test_checkpoints import finished, streamed

def kill(part, words):
  if part > 0.5:
    os.kill(os.getpid(), signal.SIGKILL)

finished(streamed(), Checkpoints(sys.argv[1], {}), progress=kill)
"""


def test_a_run_that_is_killed_ends_bit_by_bit_as_if_it_was_not(tmp_path):
  done = subprocess.run([sys.executable, '-c', KILLED, tmp_path], cwd=ROOT, check=False)
  assert done.returncode == -signal.SIGKILL
  READ.clear()
  checkpoints = Checkpoints(tmp_path, {})
  members, states = finished(streamed(), checkpoints)
  assert ('train', 6) in READ and ('train', 5) not in READ
  assert members == undisturbed()[0]
  equal(states, undisturbed()[1])
  mean = checkpoints.average(states, RECIPE.average).state.parameters
  close(mean, jax.tree.map(lambda total: total / RECIPE.average, states.average))


def test_a_member_stops_when_its_time_is_over_and_goes_on_as_if_it_had_not(tmp_path):
  checkpoints = Checkpoints(tmp_path, {})
  member = json.loads(finished(streamed(), checkpoints, timeout=0)[0][0])
  assert member['status'] == 'timeout' and member['steps'] == 1  # long before the first look
  assert [step for step, *_ in member['curve']] == [1] and math.isfinite(member['test'])
  members, states = finished(streamed(), checkpoints)
  assert members == undisturbed()[0]
  equal(states, undisturbed()[1])


@pytest.mark.slow
def test_a_run_may_go_on_on_other_devices(tmp_path):
  checkpoints = Checkpoints(tmp_path, {})
  finished(streamed(), checkpoints, timeout=0)
  members, states = finished(streamed(devices=1), checkpoints)
  assert json.loads(members[0])['status'] == 'finished'
  close(states, undisturbed()[1])
