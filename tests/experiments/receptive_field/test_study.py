"""The study of receptive fields: where the edge is, what is watched, what the tables say of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lab.cells import spec
from experiments.lab.cells.experiment import resolve
from experiments.lab.cells.run import Run
from experiments.lab.measure import jacobian
from experiments.lab.tasks.copy_memory import CopyMemory
from experiments.lab.training.step import Training
from experiments.receptive_field import cells, fields
from experiments.receptive_field import study as receptive_field
from experiments.receptive_field.tables import inside
from tests.support import command, records

LAYER = 'convolution(kernel_size=3)'
RUN = Run(layer=LAYER, width=4, depth=2, task='copy_memory(delay=2, num_symbols=2)', match='none',
          seeds=(0, 1), batch_size=2)
FIELD = 5
BEFORE, AFTER = 3.0, 5.0  # effective fields that a test chooses


def read(*words):
  """The cells of stacks, and the experiments, that a command asks for."""
  return command.asked(receptive_field, *words, of=lambda preset: (
    cells.stacks('receptive_field', preset), cells.grid(preset)))


@pytest.mark.parametrize('distance', cells.around(FIELD))
def test_a_field_holds_all_that_is_asked_for_or_nothing(distance):
  task = CopyMemory(num_symbols=min(3, distance - 1)).at(distance)
  stack = fields.stack_of(resolve(RUN))
  x = jax.random.normal(jax.random.key(0), (1, task.length, 4))
  parameters = jax.jit(stack.init)(jax.random.key(1), x)
  assert stack.receptive_field == FIELD and cells.around(FIELD) == (2, 4, 5, 8)

  @jax.jit
  def sees(time):
    return jacobian.support(jacobian.at_output(lambda x: stack.apply(parameters, x)[0], x, time))

  for symbol in range(task.num_symbols):
    assert bool(sees(distance + symbol)[0, symbol]) == (distance < FIELD)


def test_every_model_is_asked_around_its_own_edge_and_those_without_one_at_them_all():
  layers = ['convolution(kernel_size=7)', 'tcn(levels=1)', 'lstm']
  stacks, trained = read('--preset=smoke', f'--layers={",".join(layers)}', '--depth=1', '--seeds=1')
  assert [cell.run['layer'] for cell in stacks] == layers
  assert {cell.run['depth'] for cell in stacks} == {1}
  assert stacks[0].run['seeds'] == [0]
  asked = {}
  for one in trained:
    asked.setdefault(one.run.layer, []).append(one.task.distance)
  assert asked == dict(zip(layers, ([3, 6, 7, 12], [2, 4, 5, 8], [5, 7]), strict=True))
  own = read('--preset=smoke', '--layers=lstm', '--lengths=7')[1]
  assert [one.task.distance for one in own] == [7]


@pytest.mark.parametrize('name', receptive_field.PRESETS)
def test_presets_name_what_there_is_as_runs_do(name):
  preset = receptive_field.PRESETS[name]
  for layers in (preset.trained, *(sweep.layers for sweep in preset.sweeps)):
    spec.canonical(list(layers), 'layer')
  assert spec.canonical(list(preset.trained), 'layer') == list(preset.trained)


@pytest.mark.parametrize('words, message', [
  (('--layers=lstm',), 'none of these layers has a field with an edge'),
  (('--layers=nonsense',), 'no layer'),
  (('--layers=attention', '--width=6', '--lengths=8'), '--width=6 does not suit'),
  (('--layers=convolution(kernel_size=1)', '--lengths=1'), 'distance of at least 2'),
  (('--depth=0',), 'depth must be positive'),
])
def test_bad_input_is_one_line(words, message):
  done = command.run(receptive_field, '--preset=smoke', *words)
  assert done.code == 2 and message in done.err
  assert done.err.count('\n') == 1


def members_of(run):
  """A training, and the states of its members before the first step."""
  one = resolve(run)
  training = Training(one.unmatched(), one.task, run)
  initialise = jax.jit(jax.vmap(training.initialise, (0, None)))
  return training, jax.tree.map(np.asarray, initialise(jnp.array(run.seeds), 1e-3))


@pytest.mark.parametrize('layer, field', [
  (LAYER, FIELD),
  pytest.param('attention(positions=sinusoidal, num_heads=2)', None, marks=pytest.mark.slow),
])
def test_what_is_watched_is_each_member_on_embedded_tokens(layer, field):
  training, states = members_of(dataclasses.replace(RUN, layer=layer))
  model, found = training.model, fields.watch(training, states)
  source = fields.filled(training)
  assert len(found['effective']) == len(RUN.seeds)
  assert found['shown'] == [field or source.shape[1]] * 2
  own = jax.tree.map(lambda x: x[1], states.parameters)
  # The same from the whole model, with nothing below its prelude and nothing above its stack.
  bare = model.clone(head=lambda x: x, normalization=None, embedding=lambda x: x)
  x = own['params']['embedding']['embedding'][source]
  whole = jax.jit(jax.jacrev(lambda x: bare.apply(own, x)[0][:, -1].sum(0)))(x)  # [V, B, T, D]
  energy = np.mean(np.sum(np.square(whole), (0, 3)), 0)[::-1]
  np.testing.assert_allclose(found['energy'][1], energy / energy.sum(), rtol=5e-3, atol=1e-9)


def test_sequences_that_are_shorter_than_the_field_have_others_before_them():
  training, _ = members_of(dataclasses.replace(RUN, layer='convolution(kernel_size=6)'))
  source, task = fields.filled(training), training.task
  assert training.model.receptive_field == 11 > task.length == 6
  assert source.shape[1] == 12
  np.testing.assert_array_equal(source[:, -6:], task.batch('test', 0, 2).source)


def trained(layer, distance, score, depth=2, **settings):
  """A trained cell whose two seeds have a score, watched before and after."""
  made = records.trained(layer, 'copy_memory', distance, (score, score), depth=depth,
                         study='receptive_field', **settings)
  made['run']['task'] = f'copy_memory at {distance}'
  lags = (made['result']['receptive_field'] or distance) + 3
  made['result']['watched'] = [
    {'step': step, 'effective': [size] * 2, 'spread': [size / 2] * 2, 'shown': [lags] * 2,
     'energy': [[1 / lags] * lags] * 2}
    for step, size in ((0, BEFORE), (100, AFTER))
  ]
  return made


def initialised(depth, layer=LAYER, shown=0, declared=0, power=0.5):
  """A stack whose effective field grows with a power of the depth."""
  declared = declared or 1 + 2 * depth
  grown = [size * depth**power for size in (2.0, 3.0)]
  run = {'layer': layer, 'depth': depth, 'block': 'pre_norm', 'seeds': [0, 1]}
  return {
    'study': 'receptive_field', 'run': run, 'status': 'finished', 'reason': '',
    'result': {'declared': declared, 'length': declared + 3, 'shown': [shown or declared] * 2,
               'effective': grown, 'spread': grown, 'energy': [[1.0], [1.0]]},
  } | records.WHERE


def test_records_become_tables_and_panels():
  layer = 'convolution(kernel_size=9)'
  made = [
    *(initialised(depth) for depth in (1, 4, 16)), initialised(2, 'tcn', shown=3, declared=9),
    *(trained(layer, distance, float(distance < 17)) for distance in (12, 16, 17)),
    trained('lstm', 17, 1.0),
  ]
  tables, panels = receptive_field.report(made[::-1])
  start, growth, recall, training = tables
  assert start.rows[0][:4] == (f'1 x {LAYER}', 3, 3, True)
  assert start.rows[0][5].mean == pytest.approx(2.5 / 3)
  assert start.rows[3][:4] == ('2 x tcn', 9, 3, False)
  assert [row[0] for row in start.rows] == [*(f'{n} x {LAYER}' for n in (1, 4, 16)), '2 x tcn']
  ((name, depths, declared, effective, spread),) = growth.rows
  assert (name, depths) == (LAYER, '1, 4, 16') and 0.8 < declared < 0.9
  assert effective.mean == pytest.approx(0.5) and spread.mean == pytest.approx(0.5)
  assert recall.columns == ('model', 'field', '12', '16', '17')
  convolved, recurrent, chance = recall.rows
  assert convolved[:2] == (f'2 x {layer}', 17)
  assert [cell.mean for cell in convolved[2:]] == pytest.approx([1, 1, 1 / 8])
  assert recurrent[1:4] == (None, None, None) and recurrent[4].mean == 1
  assert chance[2:] == (1 / 8,) * 3
  assert training.rows[1][:3] == (f'2 x {layer}', 17, 16)
  assert [cell.mean for cell in training.rows[1][3:]] == [3, 5, 1.5, 2.5]
  depth, edge, steps, lags = panels
  assert [x for x, _ in edge.series[f'2 x {layer}']] == [12 / 17, 16 / 17, 1]
  assert list(edge.series) == [f'2 x {layer}'] == list(steps.series)
  assert [y.mean for _, y in depth.series[f'{LAYER}, declared']] == [3, 9, 33]
  assert [x for x, _ in steps.series[f'2 x {layer}']] == [0, 100]
  assert lags.title == layer and 'depth 2, asked for: 16' in lags.x_label
  assert [x for x, _ in lags.series['after training']] == list(range(17))
  assert [inside(record) for record in made[4:]] == [True, True, False, True]


def test_questions_that_differ_in_more_than_stack_and_distance_stand_apart():
  made = [trained(layer, 12, score, steps=steps) for layer in ('lstm', 'gru')
          for score, steps in ((0.0, 10), (1.0, 20))]
  tables, _ = receptive_field.report(made)
  assert [table.title.partition(': ')[2] for table in tables] == [
    f'copy memory (Arjovsky) steps={steps}' for steps in (10, 10, 20, 20)
  ]
  assert [row[2].mean for row in tables[2].rows[:2]] == [1, 1]


def test_what_is_not_there_is_left_out():
  assert receptive_field.report([]) == ([], [])
  failed = trained(LAYER, 12, 0.0) | {'status': 'out of memory', 'result': {}}
  alone = trained('lstm', 12, 1.0)
  tables, panels = receptive_field.report([initialised(1), failed, alone])
  assert [len(table.rows) for table in tables] == [1, 2, 1] and panels == []
