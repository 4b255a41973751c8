"""Damaged checkpoints are skipped, and resumed training equals uninterrupted training."""

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
from experiments.lab.tasks.task import SPLITS, one_hot_logits
from experiments.lab.tasks.transduction import Transduction
from experiments.lab.training.checkpoints import CheckpointError, Checkpoints
from experiments.lab.training.recipe import Recipe
from experiments.lab.training.step import Training
from experiments.lab.training.streaming import StreamingEnsemble, train_from_stream
from tests.support.split_models import SplitModel

ROOT = pathlib.Path(__file__).parents[4]
RECIPE = Recipe(
  steps=9, batch_size=8, validations=3, validation_batches=5, test_batches=2, average=2
)
MEMBERS = ((0, 0.03), (1, 0.1), (0, 1e38))  # the last one diverges
LOADED = []  # the (split, index) of batches that were loaded


@dataclasses.dataclass(frozen=True)
class Shifts(Transduction):
  """A task with each token's successor as target, in batches of two shapes that the host makes."""

  vocabulary_size: int = 8
  source_length: int = 6
  target_length: int = 6
  dependency_distance: int = 6
  chance_level: float = 0.0
  streams = True

  def batch(self, split, index, batch_size):
    LOADED.append((split, index))
    random = np.random.RandomState([SPLITS.index(split), index])
    shape = (8, 4) if split == 'train' and index % 2 else (7, 6)
    source = random.randint(3, 8, shape).astype(np.int32)
    target = np.where(source == 7, 3, source + 1).astype(np.int32)
    source[:, -1] = target[:, -1] = END
    return self.make_batch(source, target)

  def num_batches(self, split, batch_size):
    return 3

  def with_dependency_distance(self, distance):
    return self

  def detokenize(self, tokens):
    return str(tokens)

  def sentence_pairs_of_test_batch(self, index, batch_size):
    batch = self.batch('test', index, batch_size)
    return [(self.detokenize(row), self.detokenize(row)) for row in batch.source]

  def tokenize(self, text):
    return [int(text), END]

  def oracle_outputs(self, source):
    return one_hot_logits(source, 8)

  def baseline_outputs(self, source):
    return one_hot_logits(source, 8)


class Table(SplitModel):
  """A model whose output at a position depends on the token at this position alone."""

  dropout: float = 0.2
  size: int = 8

  @nn.compact
  def features(self, source, target=None, *, mask=None, train=False):
    hidden = nn.Dropout(self.dropout, deterministic=not train)(nn.Embed(self.size, 5)(source))
    return nn.Dense(self.size)(hidden), ()


class Tree(NamedTuple):
  """A small training state."""

  step: np.ndarray
  parameters: dict


def small_state(seed):
  random = np.random.default_rng(seed)
  return Tree(np.array(seed, np.int32), {
    'kernel': random.normal(size=(3, 2)).astype(np.float32),
    'half': jnp.asarray(random.normal(size=4), jnp.bfloat16),
  })


def assert_equal_trees(actual, expected):
  assert jax.tree.structure(actual) == jax.tree.structure(expected)
  for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_array_equal(a, e, strict=True)


@pytest.fixture
def saved(tmp_path):
  """Checkpoints of steps 1 to 4, the last three of which are kept."""
  checkpoints = Checkpoints(tmp_path / 'own', {'vocabulary': 'abc'}, keep=3)
  assert checkpoints.restore(small_state(0)) is None
  assert checkpoints.restore_with_averaged_parameters(small_state(0)) is None
  for step in range(1, 5):
    checkpoints.save(step, small_state(step), {'curve': [step, math.nan]})
  return checkpoints


@pytest.fixture
def warnings(monkeypatch):
  """The list of logged warnings."""
  logged = []
  monkeypatch.setattr(logging, 'warning', lambda text, *values: logged.append(text % values))
  return logged


def test_restoring_returns_what_was_saved_and_only_the_newest_are_kept(saved, warnings):
  newest = saved.restore(small_state(0))
  assert_equal_trees(newest.state, jax.tree.map(np.asarray, small_state(4)))
  assert newest.step == 4
  assert newest.notes['curve'][0] == 4 and math.isnan(newest.notes['curve'][1])
  assert sorted(os.listdir(saved.folder)) == ['2', '3', '4']
  saved.save(4, small_state(9))  # does nothing, since step 4 is intact
  assert_equal_trees(saved.restore(small_state(0)).state, newest.state)
  assert warnings == []


def flip_bit(file):
  data = bytearray(file.read_bytes())
  data[len(data) // 2] ^= 1
  file.write_bytes(data)


DAMAGE = {
  'flipped bit in the arrays': lambda folder: flip_bit(
    max((f for f in folder.rglob('*') if f.is_file()), key=lambda f: f.stat().st_size)),
  'flipped bit in the notes': lambda folder: flip_bit(folder / 'notes.json'),
  'flipped bit in the manifest': lambda folder: flip_bit(folder / 'manifest.json'),
  'missing manifest': lambda folder: (folder / 'manifest.json').unlink(),
  'additional file': lambda folder: (folder / 'arrays/d/more').write_bytes(b''),
  'symbolic link': lambda folder: folder.rename(folder.parent / 'x') and folder.symlink_to(
    folder.parent / 'x', target_is_directory=True),
}


@pytest.mark.parametrize('name', DAMAGE)
def test_a_damaged_checkpoint_is_skipped_for_the_newest_intact_one(saved, warnings, name):
  (saved.folder / '7').mkdir()
  (saved.folder / '8.incomplete').mkdir()
  DAMAGE[name](saved.folder / '4')
  assert saved.restore(small_state(0)).step == 3
  assert len(warnings) == 2 and all('is skipped' in text for text in warnings)
  Checkpoints(saved.folder, saved.identity, keep=1).save(4, small_state(4))
  assert_equal_trees(saved.restore(small_state(0)).state, jax.tree.map(np.asarray, small_state(4)))
  assert '3' not in os.listdir(saved.folder)


def test_the_averaged_checkpoint_is_the_mean_of_the_last_parameters(saved):
  mean = saved.restore_with_averaged_parameters(small_state(0), num_checkpoints=2)
  third, fourth = (np.asarray(small_state(n).parameters['kernel'], np.float64) for n in (3, 4))
  np.testing.assert_allclose(mean.state.parameters['kernel'], (third + fourth) / 2, atol=1e-7)
  assert mean.state.parameters['half'].dtype == jnp.bfloat16
  assert mean.step == mean.state.step == 4
  every = np.mean([small_state(step).parameters['kernel'] for step in (2, 3, 4)], 0)
  mean = saved.restore_with_averaged_parameters(small_state(0), num_checkpoints=9)
  np.testing.assert_allclose(mean.state.parameters['kernel'], every, atol=1e-7)


@pytest.mark.parametrize(('change', 'message'), [
  (lambda p: p | {'kernel': p['kernel'][:2]}, 'float32[3, 2] at .parameters'),
  (lambda p: p | {'kernel': p['kernel'].astype(np.float64)}, 'the model has float64[3, 2]'),
  (lambda p: p | {'more': p['half']}, 'has nothing at'),
  (lambda p: {'kernel': p['kernel']}, 'the model has nothing'),
])
def test_a_checkpoint_of_another_model_is_refused_in_one_line(saved, change, message):
  template = small_state(0)
  with pytest.raises(CheckpointError) as caught:
    saved.restore(template._replace(parameters=change(template.parameters)))
  assert message in str(caught.value) and '\n' not in str(caught.value)


def test_a_checkpoint_of_another_vocabulary_is_refused_in_one_line(saved):
  with pytest.raises(CheckpointError, match="belong to a run with vocabulary='abc', not 'xyz'"):
    Checkpoints(saved.folder, {'vocabulary': 'xyz'}).restore(small_state(0))
  with pytest.raises(ValueError, match='keep=0'):
    Checkpoints(saved.folder, {}, keep=0)
  with pytest.raises(CheckpointError, match='cannot create a checkpoint'):
    Checkpoints(saved.folder / '4' / 'notes.json', {}).save(1, small_state(1))


@functools.cache  # an ensemble has no state but its compiled programs
def streaming_ensemble(members=MEMBERS, parallel='jit', devices=2, dropout=0.2):
  training = Training(Table(dropout), Shifts(), RECIPE)
  return StreamingEnsemble(training, members, parallel, jax.devices()[:devices])


def train_to_end(ensemble, checkpoints=None, timeout=math.inf, progress=lambda *_: None):
  """The members' results as JSON, in which NaN equals NaN, and their last states."""
  last_states = []
  on_finish = lambda _, states: last_states.append(ensemble.gather_from_devices(states))  # noqa: E731
  training = ensemble.training
  members = train_from_stream(
    ensemble, training.task, training.recipe, timeout, progress, [ensemble], on_finish, checkpoints)
  return [json.dumps(dataclasses.asdict(member)) for member in members], last_states[0]


@functools.cache
def uninterrupted_run():
  """Results and states of a run, the batches that it loads, and the shapes that it traces."""
  LOADED.clear()
  traced, step = [], Training.train_step
  with mock.patch.object(Training, 'train_step', lambda self, state, batch: traced.append(
      batch.source.shape) or step(self, state, batch)):
    return *train_to_end(streaming_ensemble()), list(LOADED), traced


def test_members_share_batches_in_order_and_every_split_is_loaded_at_most_once():
  members, states, loaded, _ = uninterrupted_run()
  assert [index for split, index in loaded if split == 'train'] == [0, *range(RECIPE.steps)]
  validation = [index for split, index in loaded if split == 'validation']
  assert validation == [0, 1, 2] * 3  # five are requested and three exist
  # The extrapolation test loads the test batches a second time.
  assert [index for split, index in loaded if split == 'test'] == [0, 1] * 2
  *finite, diverged = map(json.loads, members)
  for member in finite:
    assert member['status'] == 'finished' and len(member['curve']) == 3
    assert member['extrapolation'] == [member['test']]
  assert finite[0]['curve'] != finite[1]['curve']
  assert diverged['status'] == 'diverged' and math.isnan(diverged['test'])
  assert states.step.tolist() == [9, 9, diverged['steps']]


@pytest.mark.parametrize('split', ['validation', 'test'])
def test_scores_are_sums_over_batches_and_the_test_uses_averaged_parameters(split):
  members, states, *_ = uninterrupted_run()
  task, parameters = Shifts(), states.parameters
  if split == 'test':
    parameters = jax.tree.map(lambda total: total / RECIPE.average, states.average)
  parameters = jax.tree.map(lambda leaf: leaf[0], parameters)
  loss = correct = weight = rows = 0
  for index in range({'validation': 3, 'test': 2}[split]):
    batch = task.batch(split, index, 8)
    outputs, _ = Table().apply(parameters, batch.source)
    loss += np.sum(batch.weight * task.loss(outputs, batch))
    weight += batch.weight.sum()
    sums = task.metric_sums(outputs, batch)
    correct, rows = (a + b for a, b in zip((correct, rows), sums, strict=True))
  member = json.loads(members[0])
  np.testing.assert_allclose(member[f'{split}_loss'], loss / weight, rtol=1e-5)
  np.testing.assert_allclose(member[split], correct / rows, rtol=1e-5)


def test_a_program_is_compiled_once_per_batch_shape():
  assert sorted(uninterrupted_run()[3]) == [(7, 6), (8, 4)]


def assert_first_members_close(actual, expected):
  for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a[0], e[0], rtol=1e-5, atol=1e-6)


def test_a_single_member_under_pmap_equals_the_same_member_in_an_ensemble_under_jit():
  members, states = train_to_end(streaming_ensemble(MEMBERS[:1], 'pmap', 1))
  ensemble_members, ensemble_states, *_ = uninterrupted_run()
  curves = [json.loads(results[0])['curve'] for results in (members, ensemble_members)]
  np.testing.assert_allclose(*curves, rtol=1e-5)
  assert_first_members_close(states, ensemble_states)


@pytest.mark.slow
def test_sharing_batches_over_devices_changes_nothing_and_padding_rows_have_no_weight():
  one, four = (streaming_ensemble(MEMBERS[:1], 'jit', devices, dropout=0.0) for devices in (1, 4))
  assert len(four.devices) == 4
  (on_one, first_states), (on_four, second_states) = train_to_end(one), train_to_end(four)
  curves = [json.loads(results[0])['curve'] for results in (on_one, on_four)]
  np.testing.assert_allclose(*curves, rtol=1e-5)
  assert_first_members_close(first_states, second_states)


def test_an_interrupted_run_saves_a_checkpoint_and_resumes_exactly(
    tmp_path, default_signal_handlers):
  checkpoints = Checkpoints(tmp_path, {}, keep=2)

  def interrupt(fraction, text):
    if fraction > 0.5:
      os.kill(os.getpid(), signal.SIGTERM)  # training stops after the next step

  with pytest.raises(KeyboardInterrupt, match='stopped after step 7'):
    train_to_end(streaming_ensemble(), checkpoints, progress=interrupt)
  assert sorted(os.listdir(tmp_path)) == ['6', '7']
  members, states = train_to_end(streaming_ensemble(), checkpoints)
  assert members == uninterrupted_run()[0]
  assert_equal_trees(states, uninterrupted_run()[1])
  # A run that was finished repeats only the tests.
  assert train_to_end(streaming_ensemble(), checkpoints)[0] == members


KILLED = """
import os, signal, sys
import tests.conftest
from experiments.lab.training.checkpoints import Checkpoints
from tests.experiments.lab.training.test_checkpoints import streaming_ensemble, train_to_end

def kill(fraction, text):
  if fraction > 0.5:
    os.kill(os.getpid(), signal.SIGKILL)

train_to_end(streaming_ensemble(), Checkpoints(sys.argv[1], {}), progress=kill)
"""


def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
  done = subprocess.run([sys.executable, '-c', KILLED, tmp_path], cwd=ROOT, check=False)
  assert done.returncode == -signal.SIGKILL
  LOADED.clear()
  checkpoints = Checkpoints(tmp_path, {})
  members, states = train_to_end(streaming_ensemble(), checkpoints)
  assert ('train', 6) in LOADED and ('train', 5) not in LOADED
  assert members == uninterrupted_run()[0]
  assert_equal_trees(states, uninterrupted_run()[1])
  mean = checkpoints.restore_with_averaged_parameters(states, RECIPE.average).state.parameters
  expected = jax.tree.map(lambda total: total / RECIPE.average, states.average)
  assert_first_members_close(mean, expected)


def test_a_run_that_timed_out_resumes_exactly(tmp_path):
  checkpoints = Checkpoints(tmp_path, {})
  member = json.loads(train_to_end(streaming_ensemble(), checkpoints, timeout=0)[0][0])
  assert member['status'] == 'timeout' and member['steps'] == 1  # before the first validation
  assert [step for step, *_ in member['curve']] == [1] and math.isfinite(member['test'])
  members, states = train_to_end(streaming_ensemble(), checkpoints)
  assert members == uninterrupted_run()[0]
  assert_equal_trees(states, uninterrupted_run()[1])


@pytest.mark.slow
def test_a_run_can_resume_on_other_devices(tmp_path):
  checkpoints = Checkpoints(tmp_path, {})
  train_to_end(streaming_ensemble(), checkpoints, timeout=0)
  members, states = train_to_end(streaming_ensemble(devices=1), checkpoints)
  assert json.loads(members[0])['status'] == 'finished'
  assert_first_members_close(states, uninterrupted_run()[1])
