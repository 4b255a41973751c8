"""Tests of runs, their keys, their matched widths and their extrapolation tasks."""

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
from experiments.lab.cells.checks import reset_unused_settings
from experiments.lab.cells.experiment import TOLERANCE, create_experiment, nearest_width
from experiments.lab.cells.models import count_parameters
from experiments.lab.cells.run import (
  BLOCKS,
  DTYPES,
  FEEDFORWARDS,
  MATCHES,
  Run,
  create_run_from_json,
)
from experiments.lab.cells.training import create_training_grid_cell
from experiments.lab.errors import BadInput
from experiments.lab.launch import training_grid
from experiments.lab.results.store import canonical_json, cell_key
from experiments.lab.training.recipe import OPTIMIZERS, SCHEDULES

ROOT = pathlib.Path(__file__).parents[4]
no_deadline = settings(deadline=None)
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
  block=st.sampled_from(BLOCKS[:-1]),  # plain blocks are excluded, as they need feedforward=none
  test_lengths=st.sets(counts, max_size=3).map(sorted).map(tuple),
  match=st.sampled_from(MATCHES),
  stop_when_solved=st.booleans(),
  seeds=st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True).map(tuple),
  learning_rates=st.lists(positive, min_size=1, max_size=4, unique=True).map(tuple),
)


@given(runs)
def test_a_run_is_restored_from_its_json_values(run):
  restored = create_run_from_json(json.loads(canonical_json(run.to_json_values())))
  assert restored == run and hash(restored) == hash(run)
  assert restored.to_json_values() == run.to_json_values()


@given(runs, st.randoms())
def test_a_key_depends_on_every_setting_but_not_on_their_order(run, order):
  values = run.to_json_values()
  names = list(values)
  assert sorted(names) == sorted(field.name for field in dataclasses.fields(Run))
  order.shuffle(names)
  key = cell_key('retention', values)
  assert cell_key('retention', {name: values[name] for name in names}) == key
  keys = {cell_key('retention', values | {name: 'changed'}) for name in names}
  assert len(keys) == len(names) and key not in keys


def test_two_cells_are_equal_exactly_if_their_runs_are_equal():
  first, equal, different = (
    create_training_grid_cell('retention', create_experiment(Run(steps=steps)))
    for steps in (5, 5, 6))
  assert first == equal and first.record_key == equal.record_key
  assert first.run != different.run and first.record_key != different.record_key


COPY_TASK = 'copy(max_length=3)'


@pytest.mark.parametrize(('task', 'layer', 'tested', 'without_effect', 'with_effect'), [
  ('recall', 'lstm', {'weight_decay': 0.5}, {'optimizer': 'adam'}, {'optimizer': 'adamw'}),
  ('recall', 'lstm', {'expansion': 3.0}, {'feedforward': 'none'}, {'feedforward': 'gelu'}),
  ('recall', 'lstm', {'beam': 3, 'length_penalty': 1.0}, {}, None),
  ('adding', 'lstm', {'label_smoothing': 0.1}, {}, None),
  (COPY_TASK, 'transformer', {'length_penalty': 1.0}, {'beam': 1}, {'beam': 2}),
  (COPY_TASK, 'transformer', {'beam': 3}, None, {}),
  (COPY_TASK, 'transformer', {'label_smoothing': 0.1}, None, {}),
])
def test_a_setting_changes_a_cell_exactly_if_it_has_an_effect(
    task, layer, tested, without_effect, with_effect):
  def cells_without_and_with_tested(other_settings):
    experiments = [
      training_grid.experiment_from_settings(
        settings, spec.parse_spec(layer, parsed_task.model_kind), parsed_task)
      for settings in (other_settings, other_settings | tested)]
    for experiment in experiments:
      assert reset_unused_settings(experiment.run, parsed_task) == experiment.run
    return [create_training_grid_cell('retention', experiment) for experiment in experiments]

  parsed_task = spec.parse_spec(task, 'task')
  if without_effect is not None:
    plain, changed = cells_without_and_with_tested(without_effect)
    assert plain == changed and plain.record_key == changed.record_key
    defaults = {field.name: field.default for field in dataclasses.fields(Run)}
    assert all(changed.run[name] == defaults[name] for name in tested)
  if with_effect is not None:
    plain, changed = cells_without_and_with_tested(with_effect)
    assert plain.record_key != changed.record_key
    assert all(changed.run[name] == value for name, value in tested.items())


INVALID_SETTINGS = {
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


@pytest.mark.parametrize(
  ('name', 'value'),
  [(name, value) for name, values in INVALID_SETTINGS.items() for value in values])
def test_an_invalid_setting_is_rejected_in_one_line_with_its_name(name, value):
  with pytest.raises(ValueError, match=name.removesuffix('s').replace('_', '.')) as caught:
    Run(**{name: value})
  assert '\n' not in str(caught.value)


@given(st.integers(0, 40), st.integers(0, 400), st.integers(0, 10**4), st.integers(1, 10**6),
       st.integers(1, 24), st.integers(1, 512))
def test_no_other_width_is_nearer_to_the_parameter_budget(a, b, c, budget, multiple, start):
  b = max(b, 1 - a)  # the count grows with the width

  def parameter_count(width):
    return a * width**2 + b * width + c

  nearest = nearest_width(parameter_count, budget, multiple, start)
  assert nearest > 0 and nearest % multiple == 0

  def difference(width):
    return abs(parameter_count(width) - budget)

  # The distance increases on both sides of the root, so that the two neighbours suffice.
  assert difference(nearest) <= difference(nearest + multiple)
  assert nearest == multiple or difference(nearest) <= difference(nearest - multiple)
  for sampled_width in random.Random(budget).sample(range(1, 2000), 20):
    assert difference(nearest) <= difference(sampled_width * multiple)


@functools.cache
def parameters_at_width(layer, task, width):
  experiment = create_experiment(Run(layer=layer, task=task, width=width, match='none'))
  return count_parameters(experiment.model_at_width(), experiment.task)


@pytest.mark.parametrize(('layer', 'task'), [
  ('gru', 'adding'),
  *(pytest.param(layer, 'recall(vocabulary_size=64)',
                 marks=[] if layer in ('attention', 'lstm', 'mamba', 'tcn') else pytest.mark.slow)
    for layer in LAYERS),
])
def test_every_layer_is_matched_to_the_parameters_of_the_transformer(layer, task):
  experiment = create_experiment(Run(layer=layer, task=task))
  sizes, budget = experiment.model_width_and_parameter_counts, experiment.parameter_budget
  width, parameters = sizes['width'], sizes['parameters']
  divisor = experiment.layer.required_width_divisor
  assert width % divisor == 0
  assert sizes['budget'] == budget == parameters_at_width('attention', task, 64)
  assert parameters == parameters_at_width(layer, task, width)
  assert parameters == count_parameters(experiment.model, experiment.task)
  if abs(parameters - budget) > TOLERANCE * budget:
    for neighbour in (width - divisor, width + divisor):
      neighbour_parameters = parameters_at_width(layer, task, neighbour)
      assert abs(parameters - budget) <= abs(neighbour_parameters - budget)


@pytest.mark.parametrize('layer', LAYERS)
def test_without_matching_the_width_is_unchanged(layer):
  run = Run(layer=layer, task='adding', width=24, match='none')
  assert create_experiment(run).model_width_and_parameter_counts == {
    'width': 24, 'parameters': parameters_at_width(layer, 'adding', 24), 'budget': None,
  }


def small_model(layer, **settings):
  """A small model for real inputs, its parameters and an input."""
  run = Run(layer=layer, task='adding', width=16, match='none', **settings)
  model, x = create_experiment(run).model, jax.random.normal(jax.random.key(0), (2, 5, 2))
  return model, jax.jit(model.init)(jax.random.key(1), x)['params'], x


def test_plain_blocks_are_layers_in_sequence_and_nothing_else():
  model, parameters, x = small_model('lstm', block='plain')
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
def test_the_layers_of_a_hybrid_alternate_from_block_to_block(depth, feedforward):
  settings = {'depth': depth, 'feedforward': feedforward}
  _, parameters, _ = small_model('interleave(lstm, interleave(attention, gru))', **settings)
  single_layer_stacks = [
    small_model(layer, **settings)[1]['stack'] for layer in ('lstm', 'attention', 'gru')
  ]
  shapes = functools.partial(jax.tree.map, jnp.shape)
  levels_per_block = 1 if feedforward == 'none' else 2
  assert len(parameters['stack']) == depth * levels_per_block
  for level in range(depth * levels_per_block):
    expected = single_layer_stacks[level // levels_per_block % 3]
    assert shapes(parameters['stack'][f'level_{level}']) == shapes(expected[f'level_{level}'])


def test_extrapolation_tasks_cover_disjoint_ranges_beyond_the_trained_length():
  run = Run(task='parity(length=8)', test_lengths=(12, 20))
  first, second = create_experiment(run).extrapolation_tasks
  assert [(task.shortest, task.length) for task in (first, second)] == [(9, 12), (13, 20)]
  with pytest.raises(BadInput, match='must exceed the trained 8, not be 8'):
    create_experiment(Run(task='parity(length=8)', test_lengths=(8,)))
  with pytest.raises(BadInput, match='--test_lengths: length=21: recall needs an even length'):
    create_experiment(Run(task='recall(length=20)', test_lengths=(21,)))
