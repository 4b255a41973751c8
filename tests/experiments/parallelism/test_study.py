"""The study of time against length: what it asks for, stores, survives and shows."""

import json
import pathlib
import subprocess
import sys

import jax
import pytest

from experiments.claims import rule
from experiments.claims.stored import KINDS
from experiments.lab.cells import timing
from experiments.lab.cells.cell import Cell, Outcome
from experiments.lab.errors import BadInput
from experiments.lab.launch.grid import launch
from experiments.lab.measure import memory
from experiments.lab.results import times
from experiments.lab.results.store import Store
from experiments.parallelism.cells import check
from experiments.parallelism.study import STUDY as parallelism
from experiments.parallelism.tables import VIEWS
from tests.support import records

ROOT = pathlib.Path(__file__).parents[3]
ATTENTION, RECURRENT = LAYERS = ('attention(num_heads=2, form=naive)', 'elman')
SHORT, LONG = LENGTHS = (4, 256)
RUN = {
  'layers': list(LAYERS),
  'lengths': list(LENGTHS),
  'quantities': list(timing.QUANTITIES),
  'tokens': 256,
  'sequences': 2,
  'generated': 3,
  'rounds': 3,
  'learning_rate': 1e-3,
  'settings': {
    'width': 8, 'depth': 1, 'match': 'params', 'dtype': 'float32', 'optimizer': 'adam', 'clip': 0.0,
  },
  'device': 'this one',
}


def measured(folder, timeout=100.0, **changes):
  """The record of one repetition."""
  cell = Cell(parallelism.name, RUN | {'seed': 0} | changes, 'repetition')
  return launch([cell], timing.time_cell(timeout), Store(folder, KINDS))[0]


@pytest.fixture(scope='module')
def roomy(tmp_path_factory):
  return measured(tmp_path_factory.mktemp('roomy'))


@pytest.fixture(scope='module')
def tight(tmp_path_factory, roomy):
  """On a machine that has not the memory to train attention at the longest length."""
  room = point(roomy, ATTENTION, LONG, 'train')['bytes']
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(memory, 'available', lambda: room)
    return measured(tmp_path_factory.mktemp('tight'), seed=1)


def point(record, layer, length, quantity):
  """What was measured of a layer, doing one thing, at a length."""
  return next(p for p in times.points(record, layer, quantity) if p['length'] == length)


def test_every_point_is_timed_in_every_round(roomy):
  assert roomy['status'] == 'finished'
  kinds = len(LENGTHS) * len(timing.QUANTITIES) + 1  # and the repeated step
  assert len(roomy['result']['points']) == len(LAYERS) * kinds
  for layer in LAYERS:
    for quantity in timing.QUANTITIES:
      found = times.per_token(roomy, layer, quantity)
      assert list(found) == list(LENGTHS)
      assert all(len(seconds) == RUN['rounds'] and min(seconds) > 0 for seconds in found.values())
    again = times.per_token(roomy, layer, 'repeat')
    assert {length: len(seconds) for length, seconds in again.items()} == {
      min(LENGTHS): RUN['rounds']}
  per_call = point(roomy, RECURRENT, LONG, 'generate')
  assert per_call['tokens'] == RUN['sequences'] * RUN['generated']


def test_only_attention_remembers_more_the_more_it_has_read(roomy):
  def grown(layer, quantity):
    short, long = (point(roomy, layer, length, quantity)['bytes'] for length in LENGTHS)
    return long / short

  room = [length + RUN['generated'] for length in LENGTHS]
  assert grown(ATTENTION, 'generate') == pytest.approx(room[1] / room[0], rel=0.1)
  assert grown(RECURRENT, 'generate') == 1
  assert grown(ATTENTION, 'train') > 1.5
  assert grown(RECURRENT, 'train') < 1.1


def test_out_of_memory_is_a_point_and_the_other_points_are_measured(tight):
  assert tight['status'] == 'finished'
  missing = [p for p in tight['result']['points'] if p['status'] != 'finished']
  assert [(p['layer'], p['length'], p['quantity']) for p in missing] == [(ATTENTION, LONG, 'train')]
  assert missing[0]['status'] == 'out of memory' and 'MiB' in missing[0]['reason']
  assert list(times.per_token(tight, ATTENTION, 'train')) == [SHORT]
  assert list(times.per_token(tight, RECURRENT, 'train')) == list(LENGTHS)


def test_only_short_memory_is_excused():
  fresh = timing.Point(RECURRENT, 4, 'train', 8)
  assert not fresh.excused(ValueError('out of memory'))
  assert not fresh.excused(jax.errors.JaxRuntimeError('INTERNAL: no such thing'))
  assert (fresh.status, fresh.reason) == ('timeout', '')
  assert fresh.excused(jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: 9 bytes\nat length'))
  assert (fresh.status, fresh.reason) == ('out of memory', 'RESOURCE_EXHAUSTED: 9 bytes')


def test_a_timeout_keeps_what_there_is(tmp_path):
  record = measured(tmp_path, timeout=0.0)
  assert record['status'] == 'timeout' and record['reason']
  assert {p['status'] for p in record['result']['points']} == {'timeout'}
  tables, _ = parallelism.report([record])
  assert all(value is None for row in tables[0].rows for value in row[1:])


def repeated(seed, repeat):
  """A repetition whose first steps take so many times as long when they are measured again."""
  return records.timed(seed, ('attention', 'lstm'), (64, 256), lambda *_: 1.0, repeat=repeat)


def control(store):
  """What the control of steady times comes to."""
  found = rule.judged(store.records())
  return next(one for one in found if one.claim.name == 'repeat').verdict


@pytest.mark.parametrize('repeat', [2.0, 0.4])
def test_retry_measures_again_what_did_not_repeat_until_the_control_holds(tmp_path, repeat):
  noisy, steady = [repeated(0, repeat), repeated(1, repeat)], repeated(2, 1.02)
  store = records.stored(tmp_path, (*noisy, steady))
  assert [times.settled(record) for record in (*noisy, steady)] == [False, False, True]
  assert control(store) != 'supported'
  cells = [Cell(parallelism.name, record['run'], '') for record in (*noisy, steady)]
  again = []

  def measure(cell, report):
    again.append(cell.run['seed'])
    return Outcome(repeated(cell.run['seed'], 1.01)['result'])

  launch(cells, measure, store)
  assert again == []
  launch(cells, measure, store, retry=True)
  assert again == [0, 1] and control(store) == 'supported'
  launch(cells, measure, store, retry=True)
  assert again == [0, 1]


def test_a_cell_that_did_not_finish_or_has_no_times_is_not_asked_whether_they_repeat():
  steady = repeated(0, 1.02)
  assert times.settled(steady)
  assert not times.settled(steady | {'status': 'timeout', 'result': {}})
  assert times.settled({'status': 'finished', 'run': {'n': 0}, 'result': {}})


def test_tables_show_a_dash_where_memory_was_short(tight):
  tables, panels = parallelism.report([tight])
  assert len(tables) == len(panels) == len(VIEWS)
  training, forward, bytes_held, generation = tables
  assert training.columns == ('layer', '4', '256', '256 / 4')
  layer, short, longest, ratio = training.rows[0]
  assert layer == ATTENTION and short.count == RUN['rounds'] and longest is ratio is None
  assert f'Out of memory: {ATTENTION} at {LONG}' in training.caption
  for table in (forward, bytes_held, generation):
    assert all(value is not None for row in table.rows for value in row)
    assert 'Out of memory' not in table.caption or table is bytes_held
  assert [x for x, _ in panels[0].series[ATTENTION]] == [SHORT]
  assert '–' in training.text() and RUN['device'] in training.text()


def test_repetitions_are_pooled_and_devices_are_not(roomy, tight):
  tables, _ = parallelism.report([roomy, tight])
  assert len(tables) == len(VIEWS)
  (_, short, longest, ratio), *_ = tables[0].rows
  assert (short.count, longest.count, ratio.count) == (6, 3, 3)
  pooled = sorted(
    1e6 * s for record in (roomy, tight)
    for s in times.per_token(record, ATTENTION, 'train')[SHORT]
  )
  assert short.mean == pytest.approx((pooled[2] + pooled[3]) / 2)

  elsewhere = roomy | {'run': roomy['run'] | {'device': 'another'}}
  tables, panels = parallelism.report([roomy, elsewhere])
  assert len({table.title for table in tables}) == len(tables) == 2 * len(VIEWS)
  assert len({panel.title for panel in panels}) == len(panels)


def test_no_records_make_no_tables():
  assert parallelism.report([]) == ([], [])


@pytest.mark.parametrize('changes, message', [
  ({'tokens': 100, 'lengths': [64]}, 'multiple'),
  ({'tokens': 8, 'lengths': [4, 16]}, 'multiple'),
  ({'tokens': 0}, '--tokens'),
  ({'sequences': -1}, '--sequences'),
  ({'generated': 0}, '--generated'),
  ({'tokens': 2**17, 'lengths': [2**17]}, 'length'),
  ({'lengths': [1]}, 'length'),
])
def test_sizes_that_make_no_batches_are_refused(changes, message):
  with pytest.raises(BadInput, match=message) as found:
    check(RUN | changes)
  assert '\n' not in str(found.value)


def command(*arguments):
  """The study in a process of its own."""
  return subprocess.run(
    [sys.executable, '-m', 'experiments.parallelism', *arguments],
    cwd=ROOT, capture_output=True, text=True, timeout=100,
  )


@pytest.mark.parametrize('arguments', [
  ('--tokens=0',), ('--lengths=0,8',), ('--seeds=0',), ('--learning_rates=1e-3,1e-2',),
  ('--batch_size=4',),
])
def test_bad_input_exits_with_2_and_one_line(tmp_path, arguments):
  found = command('--preset=smoke', f'--runs={tmp_path}', '--cache=', *arguments)
  assert found.returncode == 2 and found.stdout == ''
  assert len(found.stderr.splitlines()) == 1 and arguments[0].partition('=')[0] in found.stderr
  assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_the_smoke_preset_is_stored_and_not_measured_again(tmp_path):
  arguments = ('--preset=smoke', f'--runs={tmp_path}', f'--cache={tmp_path / "programs"}')
  first = command(*arguments)
  assert first.returncode == 0, first.stderr
  cells = sorted((tmp_path / 'cells').iterdir())
  assert [json.loads(cell.read_text())['status'] for cell in cells] == ['finished'] * 2
  stamps = [cell.stat().st_mtime_ns for cell in cells]
  again = command(*arguments)
  assert (again.returncode, again.stdout) == (0, first.stdout)
  assert [cell.stat().st_mtime_ns for cell in cells] == stamps
  for view in VIEWS:
    assert view.title in first.stdout
  assert len(list((tmp_path / 'parallelism').glob('*.csv'))) == len(VIEWS)
