"""Runs and grids: a run is its content, widths meet budgets, what is stored is not run again."""

import dataclasses
import functools
import json
import math
import pathlib
import random

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import LAYERS
from experiments.lab.cells import spec
from experiments.lab.cells.checks import neutral
from experiments.lab.cells.experiment import TOLERANCE, nearest_width, resolve
from experiments.lab.cells.models import count_parameters
from experiments.lab.cells.run import BLOCKS, DTYPES, FEEDFORWARDS, MATCHES, Run, run_from
from experiments.lab.cells.training import cell_of
from experiments.lab.errors import BadInput
from experiments.lab.launch import training_grid
from experiments.lab.results.store import canonical, key_of
from experiments.lab.training.recipe import OPTIMIZERS, SCHEDULES

ROOT = pathlib.Path(__file__).parents[4]
relaxed = settings(deadline=None)
counts = st.integers(1, 1000)
fractions = st.floats(0, 1, exclude_max=True)
positive = st.floats(1e-6, 1e6)
runs = st.builds(
  Run,
  layer=st.sampled_from(sorted(LAYERS)),
  **dict.fromkeys(('steps', 'batch_size', 'width', 'depth', 'validations', 'test_batches'), counts),
  **dict.fromkeys(('warmup', 'dropout'), fractions),
  **dict.fromkeys(('weight_decay', 'clip'), positive),
  expansion=st.floats(1e-3, 1000),
  optimizer=st.sampled_from(OPTIMIZERS),
  schedule=st.sampled_from(SCHEDULES),
  dtype=st.sampled_from(DTYPES),
  feedforward=st.sampled_from(FEEDFORWARDS),
  block=st.sampled_from(BLOCKS[:-1]),  # a plain block has none
  test_lengths=st.sets(counts, max_size=3).map(sorted).map(tuple),
  match=st.sampled_from(MATCHES),
  stop_when_solved=st.booleans(),
  seeds=st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True).map(tuple),
  learning_rates=st.lists(positive, min_size=1, max_size=4, unique=True).map(tuple),
)


@given(runs)
def test_a_run_comes_back_from_the_json_of_its_identity(run):
  found = run_from(json.loads(canonical(run.identity())))
  assert found == run and hash(found) == hash(run)
  assert found.identity() == run.identity()


@given(runs, st.randoms())
def test_a_key_depends_on_every_field_and_not_on_their_order(run, order):
  identity = run.identity()
  names = list(identity)
  assert sorted(names) == sorted(field.name for field in dataclasses.fields(Run))
  order.shuffle(names)
  key = key_of('retention', identity)
  assert key_of('retention', {name: identity[name] for name in names}) == key
  keys = {key_of('retention', identity | {name: 'changed'}) for name in names}
  assert len(keys) == len(names) and key not in keys


def test_two_cells_are_one_exactly_if_their_runs_are_equal():
  one, same, other = Run(steps=5), Run(steps=5), Run(steps=6)
  one, same, other = (cell_of('retention', resolve(run)) for run in (one, same, other))
  assert one == same and one.key == same.key
  assert one.run != other.run and one.key != other.key


COPY = 'copy(max_length=3)'


@pytest.mark.parametrize(('task', 'layer', 'idle', 'without', 'effective'), [
  ('recall', 'lstm', {'weight_decay': 0.5}, {'optimizer': 'adam'}, {'optimizer': 'adamw'}),
  ('recall', 'lstm', {'expansion': 3.0}, {'feedforward': 'none'}, {'feedforward': 'gelu'}),
  ('recall', 'lstm', {'beam': 3, 'length_penalty': 1.0}, {}, None),
  ('adding', 'lstm', {'label_smoothing': 0.1}, {}, None),
  (COPY, 'transformer', {'length_penalty': 1.0}, {'beam': 1}, {'beam': 2}),
  (COPY, 'transformer', {'beam': 3}, None, {}),
  (COPY, 'transformer', {'label_smoothing': 0.1}, None, {}),
])
def test_a_setting_makes_a_second_cell_exactly_where_it_has_an_effect(
    task, layer, idle, without, effective):
  def cells(given):
    found = [
      training_grid.resolved(settings, spec.parse(layer, asked.answered_by), asked)
      for settings in (given, given | idle)]
    assert all(neutral(one.run, asked) == one.run for one in found)
    return [cell_of('retention', one) for one in found]

  asked = spec.parse(task, 'task')
  if without is not None:
    plain, changed = cells(without)
    assert plain == changed and plain.key == changed.key
    defaults = {field.name: field.default for field in dataclasses.fields(Run)}
    assert all(changed.run[name] == defaults[name] for name in idle)
  if effective is not None:
    plain, changed = cells(effective)
    assert plain.key != changed.key
    assert all(changed.run[name] == value for name, value in idle.items())


BAD = {
  **dict.fromkeys(
    ('steps', 'batch_size', 'width', 'depth', 'validations', 'validation_batches', 'test_batches'),
    (0, -1, math.nan, math.inf),
  ),
  'expansion': (0.0, -1.0, math.nan, math.inf),
  'warmup': (-0.1, 1.0, math.nan, math.inf),
  'dropout': (-0.1, 1.0, math.nan, math.inf),
  'weight_decay': (-0.1, math.nan, math.inf),
  'clip': (-1.0, math.nan, math.inf),
  'optimizer': ('', 'sgd'),
  'schedule': ('', 'linear'),
  'dtype': ('', 'float64'),
  'feedforward': ('', 'tanh'),
  'block': ('', 'norm'),
  'test_lengths': ((0,), (-1, 2), (3, 2), (2, 2)),
  'match': ('', 'flops'),
  'seeds': ((), (0, 0), (-1,), (2**31,)),
  'learning_rates': ((), (0.0,), (-1e-3,), (math.nan,), (math.inf,), (1e-3, 1e-3)),
}


@pytest.mark.parametrize(('name', 'value'), [(n, v) for n, vs in BAD.items() for v in vs])
def test_a_setting_that_makes_no_sense_is_refused_in_one_line_that_names_it(name, value):
  with pytest.raises(ValueError, match=name.removesuffix('s').replace('_', '.')) as caught:
    Run(**{name: value})
  assert '\n' not in str(caught.value)


@given(st.integers(0, 40), st.integers(0, 400), st.integers(0, 10**4), st.integers(1, 10**6),
       st.integers(1, 24), st.integers(1, 512))
def test_no_other_width_is_nearer_to_the_budget(a, b, c, budget, multiple, start):
  b = max(b, 1 - a)  # the count grows with the width

  def count(width):
    return a * width**2 + b * width + c

  found = nearest_width(count, budget, multiple, start)
  assert found > 0 and found % multiple == 0

  def off(width):
    return abs(count(width) - budget)

  # Off grows on both sides of the root, so that the neighbours speak for all.
  assert off(found) <= off(found + multiple)
  assert found == multiple or off(found) <= off(found - multiple)
  for width in random.Random(budget).sample(range(1, 2000), 20):
    assert off(found) <= off(width * multiple)


@functools.cache
def counted(layer, task, width):
  one = resolve(Run(layer=layer, task=task, width=width, match='none'))
  return count_parameters(one.unmatched(), one.task)


@pytest.mark.parametrize(('layer', 'task'), [
  *((layer, 'recall(vocabulary_size=64)') for layer in LAYERS), ('gru', 'adding'),
])
def test_every_layer_gets_as_many_parameters_as_the_transformer(layer, task):
  one = resolve(Run(layer=layer, task=task))
  match, width, multiple = one.match, one.match['width'], one.layer.width_multiple
  assert width % multiple == 0
  assert match['budget'] == one.budget == counted('attention', task, 64)
  assert match['parameters'] == counted(layer, task, width)
  assert match['parameters'] == count_parameters(one.model, one.task)
  off = abs(match['parameters'] - match['budget'])
  if off > TOLERANCE * match['budget']:
    for neighbour in (width - multiple, width + multiple):
      assert off <= abs(counted(layer, task, neighbour) - match['budget'])


@pytest.mark.parametrize('layer', LAYERS)
def test_unmatched_widths_are_left_as_they_are(layer):
  run = Run(layer=layer, task='adding', width=24, match='none')
  assert resolve(run).match == {
    'width': 24, 'parameters': counted(layer, 'adding', 24), 'budget': None,
  }


def model_of(layer, **settings):
  """A small model for real input, with its parameters and an input."""
  run = Run(layer=layer, task='adding', width=16, match='none', **settings)
  model, x = resolve(run).model, jax.random.normal(jax.random.key(0), (2, 5, 2))
  return model, jax.jit(model.init)(jax.random.key(1), x)['params'], x


def test_the_classic_shell_is_layers_one_above_another_and_nothing_else():
  model, parameters, x = model_of('lstm', block='plain')
  assert set(parameters) == {'embedding', 'stack', 'head'}
  y = model.embedding.apply({'params': parameters['embedding']}, x)
  for level in ('level_0', 'level_1'):
    assert set(parameters['stack'][level]) == {'layer'}
    y, _ = LAYERS['lstm']().apply({'params': parameters['stack'][level]['layer']}, y)
  y = model.head.apply({'params': parameters['head']}, y)
  assert jnp.allclose(model.apply({'params': parameters}, x)[0], y, atol=1e-6)
  with pytest.raises(ValueError, match='--block=plain has no feed-forward network'):
    Run(block='plain', feedforward='gelu')


@pytest.mark.parametrize('depth', [
  3, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (1, 2, 4))])
@pytest.mark.parametrize('feedforward', ['none', pytest.param('gelu', marks=pytest.mark.slow)])
def test_the_layers_of_a_hybrid_take_turns_one_a_block(depth, feedforward):
  settings = {'depth': depth, 'feedforward': feedforward}
  _, parameters, _ = model_of('interleave(lstm, interleave(attention, gru))', **settings)
  alone = [
    model_of(layer, **settings)[1]['stack'] for layer in ('lstm', 'attention', 'gru')
  ]
  shapes = functools.partial(jax.tree.map, jnp.shape)
  per_block = 1 if feedforward == 'none' else 2
  assert len(parameters['stack']) == depth * per_block
  for level in range(depth * per_block):
    turn = alone[level // per_block % 3]
    assert shapes(parameters['stack'][f'level_{level}']) == shapes(turn[f'level_{level}'])


def test_tests_beyond_the_trained_length_ask_one_after_another_and_lie_beyond_it():
  run = Run(task='parity(length=8)', test_lengths=(12, 20))
  first, second = resolve(run).extrapolation_tasks
  assert [(task.shortest, task.length) for task in (first, second)] == [(9, 12), (13, 20)]
  with pytest.raises(BadInput, match='beyond the trained 8, not at 8'):
    resolve(Run(task='parity(length=8)', test_lengths=(8,)))
  with pytest.raises(BadInput, match='--test_lengths: length=21: recall needs an even length'):
    resolve(Run(task='recall(length=20)', test_lengths=(21,)))
