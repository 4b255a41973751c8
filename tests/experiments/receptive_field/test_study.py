"""Tests of the study of receptive fields, its grid, its measurements and its tables."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lab.cells import spec
from experiments.lab.cells.experiment import create_experiment
from experiments.lab.cells.run import Run
from experiments.lab.measure import jacobian
from experiments.lab.tasks.copy_memory import CopyMemory
from experiments.lab.training.step import Training
from experiments.receptive_field import cells, field_measurement
from experiments.receptive_field import study as receptive_field
from experiments.receptive_field.tables import is_dependency_within_receptive_field
from tests.support import command, records

LAYER = 'convolution(kernel_size=3)'
RUN = Run(layer=LAYER, width=4, depth=2, task='copy_memory(delay=2, num_symbols=2)', match='none',
          seeds=(0, 1), batch_size=2)
FIELD = 5
BEFORE, AFTER = 3.0, 5.0  # effective fields before and after training


def cells_and_experiments(*words):
  """The measurements at initialisation and the training experiments of a command."""
  return command.evaluate_on_preset(receptive_field, *words, function=lambda preset: (
    cells.create_experiment_grid_cells_for_untrained_models('receptive_field', preset),
    cells.experiments_near_receptive_field_boundary(preset)))


@pytest.mark.parametrize('distance', cells.distances_near_receptive_field_boundary(FIELD))
def test_field_contains_all_symbols_of_copy_memory_or_none(distance):
  task = CopyMemory(num_symbols=min(3, distance - 1)).with_dependency_distance(distance)
  stack = field_measurement.residual_stack_of_model(create_experiment(RUN))
  x = jax.random.normal(jax.random.key(0), (1, task.length, 4))
  parameters = jax.jit(stack.init)(jax.random.key(1), x)
  assert stack.receptive_field == FIELD
  assert cells.distances_near_receptive_field_boundary(FIELD) == (2, 4, 5, 8)

  @jax.jit
  def nonzero_gradient(time):
    apply_stack = lambda x: stack.apply(parameters, x)[0]  # noqa: E731
    return jacobian.dependence_mask(jacobian.jacobian_of_output_at_position(apply_stack, x, time))

  for symbol in range(task.num_symbols):
    assert bool(nonzero_gradient(distance + symbol)[0, symbol]) == (distance < FIELD)


def test_models_are_trained_near_the_boundary_of_their_own_field_or_of_other_fields():
  layers = ['convolution(kernel_size=7)', 'tcn(levels=1)', 'lstm']
  stacks, experiments = cells_and_experiments(
    '--preset=smoke', f'--layers={",".join(layers)}', '--depth=1', '--seeds=1')
  assert [cell.run['layer'] for cell in stacks] == layers
  assert {cell.run['depth'] for cell in stacks} == {1}
  assert stacks[0].run['seeds'] == [0]
  distances = {}
  for experiment in experiments:
    distances.setdefault(experiment.run.layer, []).append(experiment.task.dependency_distance)
  assert distances == dict(zip(layers, ([3, 6, 7, 12], [2, 4, 5, 8], [5, 7]), strict=True))
  _, experiments = cells_and_experiments('--preset=smoke', '--layers=lstm', '--lengths=7')
  assert [experiment.task.dependency_distance for experiment in experiments] == [7]


@pytest.mark.parametrize('name', receptive_field.PRESETS)
def test_presets_contain_canonical_specs_of_known_layers(name):
  preset = receptive_field.PRESETS[name]
  for layers in (preset.trained, *(sweep.layers for sweep in preset.sweeps)):
    spec.remove_default_options_from_specs(list(layers), 'layer')
  trained = list(preset.trained)
  assert spec.remove_default_options_from_specs(trained, 'layer') == trained


@pytest.mark.parametrize('words, message', [
  (('--layers=lstm',), 'none of these layers has a bounded receptive field'),
  (('--layers=nonsense',), 'no layer'),
  (('--layers=attention', '--width=6', '--lengths=8'), '--width=6 is invalid for'),
  (('--layers=convolution(kernel_size=1)', '--lengths=1'), 'distance of at least 2'),
  (('--depth=0',), 'depth must be positive'),
])
def test_bad_flags_are_refused_in_one_line(words, message):
  done = command.run_command(receptive_field, '--preset=smoke', *words)
  assert done.code == 2 and message in done.err
  assert done.err.count('\n') == 1


def initial_training(run):
  """The training of a run, and the states of its members before the first step."""
  experiment = create_experiment(run)
  training = Training(experiment.model_at_width(), experiment.task, run)
  initialise = jax.jit(jax.vmap(training.initialise, (0, None)))
  return training, jax.tree.map(np.asarray, initialise(jnp.array(run.seeds), 1e-3))


@pytest.mark.parametrize('layer, field', [
  (LAYER, FIELD),
  pytest.param('attention(positions=sinusoidal, num_heads=2)', None, marks=pytest.mark.slow),
])
def test_gradient_norms_in_training_are_with_respect_to_embedded_tokens(layer, field):
  training, states = initial_training(dataclasses.replace(RUN, layer=layer))
  model = training.model
  measurement = field_measurement.receptive_fields_in_training(training, states)
  source = field_measurement.sequences_longer_than_receptive_field(training)
  assert len(measurement['effective']) == len(RUN.seeds)
  assert measurement['measured'] == [field or source.shape[1]] * 2
  parameters = jax.tree.map(lambda x: x[1], states.parameters)
  # The reference is the Jacobian of the model without its embedding, its last norm and its head.
  headless = model.clone(head=lambda x: x, normalization=None, embedding=lambda x: x)
  x = parameters['params']['embedding']['embedding'][source]
  last_output = lambda x: headless.apply(parameters, x)[0][:, -1].sum(0)  # noqa: E731
  reference = jax.jit(jax.jacrev(last_output))(x)  # [V, B, T, D]
  squared_norms = np.mean(np.sum(np.square(reference), (0, 3)), 0)[::-1]
  np.testing.assert_allclose(
    measurement['energy'][1], squared_norms / squared_norms.sum(), rtol=5e-3, atol=1e-9)


def test_test_sequences_shorter_than_the_field_are_preceded_by_others():
  training, _ = initial_training(dataclasses.replace(RUN, layer='convolution(kernel_size=6)'))
  task = training.task
  source = field_measurement.sequences_longer_than_receptive_field(training)
  assert training.model.receptive_field == 11 > task.length == 6
  assert source.shape[1] == 12
  np.testing.assert_array_equal(source[:, -6:], task.batch('test', 0, 2).source)


def trained_record(layer, distance, score, depth=2, **settings):
  """The record of a trained model in which two seeds have the same score and fields."""
  record = records.training_record(layer, 'copy_memory', distance, (score, score), depth=depth,
                         study='receptive_field', **settings)
  record['run']['task'] = f'copy_memory at {distance}'
  length = (record['result']['receptive_field'] or distance) + 3
  record['result']['watched'] = [
    {'step': step, 'effective': [size] * 2, 'spread': [size / 2] * 2, 'measured': [length] * 2,
     'energy': [[1 / length] * length] * 2}
    for step, size in ((0, BEFORE), (100, AFTER))
  ]
  return record


def untrained_record(depth, layer=LAYER, measured=0, theoretical=0, exponent=0.5):
  """The record of an untrained stack of layers whose effective field is a power of the depth."""
  theoretical = theoretical or 1 + 2 * depth
  effective = [size * depth**exponent for size in (2.0, 3.0)]
  run = {'layer': layer, 'depth': depth, 'block': 'pre_norm', 'seeds': [0, 1]}
  return {
    'study': 'receptive_field', 'run': run, 'status': 'finished', 'reason': '',
    'result': {
      'theoretical': theoretical, 'length': theoretical + 3,
      'measured': [measured or theoretical] * 2,
      'effective': effective, 'spread': effective, 'energy': [[1.0], [1.0]],
    },
  } | records.RUN_ENVIRONMENT


def test_records_become_tables_and_panels():
  layer = 'convolution(kernel_size=9)'
  made = [
    *(untrained_record(depth) for depth in (1, 4, 16)),
    untrained_record(2, 'tcn', measured=3, theoretical=9),
    *(trained_record(layer, distance, float(distance < 17)) for distance in (12, 16, 17)),
    trained_record('lstm', 17, 1.0),
  ]
  tables, panels = receptive_field.report(made[::-1])
  fields, growth, recall, training = tables
  assert fields.rows[0][:4] == (f'1 x {LAYER}', 3, 3, True)
  assert fields.rows[0][5].estimate == pytest.approx(2.5 / 3)
  assert fields.rows[3][:4] == ('2 x tcn', 9, 3, False)
  assert [row[0] for row in fields.rows] == [*(f'{n} x {LAYER}' for n in (1, 4, 16)), '2 x tcn']
  ((name, depths, theoretical, effective, spread),) = growth.rows
  assert (name, depths) == (LAYER, '1, 4, 16') and 0.8 < theoretical < 0.9
  assert effective.estimate == pytest.approx(0.5) and spread.estimate == pytest.approx(0.5)
  assert recall.columns == ('model', 'receptive field', '12', '16', '17')
  convolution, lstm, chance = recall.rows
  assert convolution[:2] == (f'2 x {layer}', 17)
  assert [cell.estimate for cell in convolution[2:]] == pytest.approx([1, 1, 1 / 8])
  assert lstm[1:4] == (None, None, None) and lstm[4].estimate == 1
  assert chance[2:] == (1 / 8,) * 3
  assert training.rows[1][:3] == (f'2 x {layer}', 17, 16)
  assert [cell.estimate for cell in training.rows[1][3:]] == [3, 5, 1.5, 2.5]
  depth, boundary, steps, norms = panels
  assert [x for x, _ in boundary.series[f'2 x {layer}']] == [12 / 17, 16 / 17, 1]
  assert list(boundary.series) == [f'2 x {layer}'] == list(steps.series)
  assert [y.estimate for _, y in depth.series[f'{LAYER}, theoretical']] == [3, 9, 33]
  assert [x for x, _ in steps.series[f'2 x {layer}']] == [0, 100]
  assert norms.title == layer and 'depth 2, task distance 16' in norms.x_label
  assert [x for x, _ in norms.series['after training']] == list(range(17))
  is_within = [is_dependency_within_receptive_field(record) for record in made[4:]]
  assert is_within == [True, True, False, True]


def test_runs_with_different_settings_have_separate_tables():
  made = [trained_record(layer, 12, score, steps=steps) for layer in ('lstm', 'gru')
          for score, steps in ((0.0, 10), (1.0, 20))]
  tables, _ = receptive_field.report(made)
  assert [table.title.partition(': ')[2] for table in tables] == [
    f'copy memory (Arjovsky) steps={steps}' for steps in (10, 10, 20, 20)
  ]
  assert [row[2].estimate for row in tables[2].rows[:2]] == [1, 1]


def test_report_omits_failed_cells_and_empty_panels():
  assert receptive_field.report([]) == ([], [])
  failed = trained_record(LAYER, 12, 0.0) | {'status': 'out of memory', 'result': {}}
  tables, panels = receptive_field.report(
    [untrained_record(1), failed, trained_record('lstm', 12, 1.0)])
  assert [len(table.rows) for table in tables] == [1, 2, 1] and panels == []
