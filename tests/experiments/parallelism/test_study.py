"""Tests of the parallelism study, of its cells, stored points, retries and tables."""

import json
import pathlib
import statistics
import subprocess
import sys

import jax
import pytest

from experiments.claims import rule
from experiments.claims.current_records import KINDS
from experiments.lab.cells import timing
from experiments.lab.cells.cell import Cell, Outcome
from experiments.lab.errors import BadInput
from experiments.lab.launch.grid import run_grid_cells
from experiments.lab.measure import memory
from experiments.lab.results import times
from experiments.lab.results.store import Store
from experiments.parallelism.cells import check_timing_settings
from experiments.parallelism.study import STUDY as parallelism
from experiments.parallelism.tables import METRICS
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


def measure_repetition(folder, timeout=100.0, **changes):
  """Runs one cell and returns its record."""
  cell = Cell(parallelism.name, RUN | {'seed': 0} | changes, 'repetition')
  execute = timing.executor_for_timing_grid_cells(timeout)
  return run_grid_cells([cell], execute, Store(folder, KINDS))[0]


@pytest.fixture(scope='module')
def complete_record(tmp_path_factory):
  return measure_repetition(tmp_path_factory.mktemp('roomy'))


@pytest.fixture(scope='module')
def short_memory_record(tmp_path_factory, complete_record):
  """Record of a machine with too little memory to train attention at the longest length."""
  memory_limit = find_point(complete_record, ATTENTION, LONG, 'train')['bytes']
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(memory, 'available_bytes', lambda: memory_limit)
    return measure_repetition(tmp_path_factory.mktemp('tight'), seed=1)


def find_point(record, layer, length, quantity):
  """Returns the measured point of a layer, a quantity and a length."""
  return next(p for p in times.layer_measurements(record, layer, quantity) if p['length'] == length)


def test_every_point_is_timed_in_every_round(complete_record):
  assert complete_record['status'] == 'finished'
  kinds = len(LENGTHS) * len(timing.QUANTITIES) + 1  # and the repeated step
  assert len(complete_record['result']['points']) == len(LAYERS) * kinds
  for layer in LAYERS:
    for quantity in timing.QUANTITIES:
      by_length = times.seconds_per_token(complete_record, layer, quantity)
      assert list(by_length) == list(LENGTHS)
      assert all(
        len(seconds) == RUN['rounds'] and min(seconds) > 0 for seconds in by_length.values())
    repeated_step = times.seconds_per_token(complete_record, layer, 'repeat')
    assert {length: len(seconds) for length, seconds in repeated_step.items()} == {
      min(LENGTHS): RUN['rounds']}
  per_call = find_point(complete_record, RECURRENT, LONG, 'generate')
  assert per_call['tokens'] == RUN['sequences'] * RUN['generated']


def test_only_the_state_of_attention_grows_with_the_position(complete_record):
  def byte_growth(layer, quantity):
    short, long = (
      find_point(complete_record, layer, length, quantity)['bytes'] for length in LENGTHS)
    return long / short

  capacities = [length + RUN['generated'] for length in LENGTHS]
  assert byte_growth(ATTENTION, 'generate') == pytest.approx(capacities[1] / capacities[0], rel=0.1)
  assert byte_growth(RECURRENT, 'generate') == 1
  assert byte_growth(ATTENTION, 'train') > 1.5
  assert byte_growth(RECURRENT, 'train') < 1.1


def test_a_point_out_of_memory_does_not_stop_the_other_points(short_memory_record):
  assert short_memory_record['status'] == 'finished'
  missing = [p for p in short_memory_record['result']['points'] if p['status'] != 'finished']
  assert [(p['layer'], p['length'], p['quantity']) for p in missing] == [(ATTENTION, LONG, 'train')]
  assert missing[0]['status'] == 'out of memory' and 'MiB' in missing[0]['reason']
  assert list(times.seconds_per_token(short_memory_record, ATTENTION, 'train')) == [SHORT]
  assert list(times.seconds_per_token(short_memory_record, RECURRENT, 'train')) == list(LENGTHS)


def test_only_memory_errors_are_valid_results():
  untimed = timing.Measurement(RECURRENT, 4, 'train', 8)
  assert not untimed.store_error_if_out_of_memory(ValueError('out of memory'))
  assert not untimed.store_error_if_out_of_memory(
    jax.errors.JaxRuntimeError('INTERNAL: no such thing'))
  assert (untimed.status, untimed.reason) == ('timeout', '')
  error = jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: 9 bytes\nat length')
  assert untimed.store_error_if_out_of_memory(error)
  assert (untimed.status, untimed.reason) == ('out of memory', 'RESOURCE_EXHAUSTED: 9 bytes')


def test_a_timeout_is_stored_with_its_points(tmp_path):
  record = measure_repetition(tmp_path, timeout=0.0)
  assert record['status'] == 'timeout' and record['reason']
  assert {p['status'] for p in record['result']['points']} == {'timeout'}
  tables, _ = parallelism.report([record])
  assert all(value is None for row in tables[0].rows for value in row[1:])


def record_with_drift(seed, repeat):
  """Returns a repetition whose repeated step takes `repeat` times as long as the first one."""
  return records.timing_record(
    seed, ('attention', 'lstm'), (64, 256), lambda *_: 1.0, repetition_factor=repeat)


def repeat_verdict(store):
  """Returns the verdict on the control that times are reproducible."""
  verdicts = rule.evaluate_control_experiments(store.records())
  return next(finding for finding in verdicts if finding.claim.name == 'repeat').verdict


@pytest.mark.parametrize('repeat', [2.0, 0.4])
def test_retry_repeats_unsteady_cells_until_the_control_holds(tmp_path, repeat):
  noisy = [record_with_drift(0, repeat), record_with_drift(1, repeat)]
  steady = record_with_drift(2, 1.02)
  store = records.store_records(tmp_path, (*noisy, steady))
  assert [times.is_finished_with_consistent_timings(record) for record in (*noisy, steady)] == [
    False, False, True]
  assert repeat_verdict(store) != 'supported'
  cells = [Cell(parallelism.name, record['run'], '') for record in (*noisy, steady)]
  repeated_seeds = []

  def measure(cell, report):
    repeated_seeds.append(cell.run['seed'])
    return Outcome(record_with_drift(cell.run['seed'], 1.01)['result'])

  run_grid_cells(cells, measure, store)
  assert repeated_seeds == []
  run_grid_cells(cells, measure, store, retry=True)
  assert repeated_seeds == [0, 1] and repeat_verdict(store) == 'supported'
  run_grid_cells(cells, measure, store, retry=True)
  assert repeated_seeds == [0, 1]


def test_only_finished_cells_with_times_are_checked_for_drift():
  steady = record_with_drift(0, 1.02)
  assert times.is_finished_with_consistent_timings(steady)
  assert not times.is_finished_with_consistent_timings(steady | {'status': 'timeout', 'result': {}})
  assert times.is_finished_with_consistent_timings(
    {'status': 'finished', 'run': {'n': 0}, 'result': {}})


def test_tables_show_a_dash_for_points_out_of_memory(short_memory_record):
  tables, panels = parallelism.report([short_memory_record])
  assert len(tables) - 1 == len(panels) == len(METRICS)
  training, forward, operations, planned_memory, compilation, generation, gradient = tables
  assert training.columns == ('layer', '4', '256', '256 / 4')
  layer, short, longest, ratio = training.rows[0]
  assert layer == ATTENTION and short.count == RUN['rounds'] and longest is ratio is None
  assert f'Out of memory: {ATTENTION} at {LONG}' in training.caption
  for table in (forward, operations, planned_memory, compilation, generation, gradient):
    assert all(value is not None for row in table.rows for value in row)
    of_training = table in (operations, planned_memory, compilation)
    assert of_training == ('Out of memory' in table.caption)
  assert [x for x, _ in panels[0].series[ATTENTION]] == [SHORT]
  assert '–' in training.text() and RUN['device'] in training.text()


def test_repetitions_are_pooled_but_devices_are_not(complete_record, short_memory_record):
  tables, _ = parallelism.report([complete_record, short_memory_record])
  assert len(tables) == len(METRICS) + 1
  (_, short, longest, ratio), *_ = tables[0].rows
  assert (short.count, longest.count, ratio.count) == (6, 3, 3)
  pooled = sorted(
    1e6 * s for record in (complete_record, short_memory_record)
    for s in times.seconds_per_token(record, ATTENTION, 'train')[SHORT]
  )
  assert short.estimate == pytest.approx((pooled[2] + pooled[3]) / 2)

  _, in_forward_passes, _ = tables[-1].rows[0]
  median = {
    quantity: statistics.median(
      seconds for record in (complete_record, short_memory_record)
      for seconds in times.seconds_per_token(record, ATTENTION, quantity)[SHORT])
    for quantity in ('layer_gradient', 'layer')}
  assert in_forward_passes.estimate == pytest.approx(median['layer_gradient'] / median['layer'])

  elsewhere = complete_record | {'run': complete_record['run'] | {'device': 'another'}}
  tables, panels = parallelism.report([complete_record, elsewhere])
  assert len({table.title for table in tables}) == len(tables) == 2 * len(METRICS) + 2
  assert len({panel.title for panel in panels}) == len(panels)


def test_a_report_of_no_records_is_empty():
  assert parallelism.report([]) == ([], [])


@pytest.mark.parametrize('changes, message', [
  ({'tokens': 100, 'lengths': [64]}, 'multiple'),
  ({'tokens': 8, 'lengths': [4, 16]}, 'multiple'),
  ({'tokens': 0}, '--tokens'),
  ({'sequences': -1}, '--sequences'),
  ({'generated': 0}, '--generated'),
  ({'tokens': 2**17, 'lengths': [2**17]}, 'length'),
  ({'lengths': [1]}, 'length'),
  ({'layers': [RECURRENT] * 60}, 'compiled programs at once'),
])
def test_sizes_that_form_no_batch_are_refused(changes, message):
  with pytest.raises(BadInput, match=message) as error:
    check_timing_settings(RUN | changes)
  assert '\n' not in str(error.value)


def run_study_process(*arguments):
  """Runs the study in a separate process."""
  return subprocess.run(
    [sys.executable, '-m', 'experiments.parallelism', *arguments],
    cwd=ROOT, capture_output=True, text=True, timeout=100,
  )


@pytest.mark.parametrize('arguments', [
  ('--tokens=0',), ('--lengths=0,8',), ('--seeds=0',), ('--learning_rates=1e-3,1e-2',),
  ('--batch_size=4',),
])
def test_bad_input_exits_with_2_and_one_line(tmp_path, arguments):
  done = run_study_process('--preset=smoke', f'--runs={tmp_path}', '--cache=', *arguments)
  assert done.returncode == 2 and done.stdout == ''
  assert len(done.stderr.splitlines()) == 1 and arguments[0].partition('=')[0] in done.stderr
  assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_the_smoke_preset_is_stored_and_then_skipped(tmp_path):
  arguments = ('--preset=smoke', f'--runs={tmp_path}', f'--cache={tmp_path / "programs"}')
  first = run_study_process(*arguments)
  assert first.returncode == 0, first.stderr
  cells = sorted((tmp_path / 'cells').iterdir())
  assert [json.loads(cell.read_text())['status'] for cell in cells] == ['finished'] * 2
  stamps = [cell.stat().st_mtime_ns for cell in cells]
  second = run_study_process(*arguments)
  assert (second.returncode, second.stdout) == (0, first.stdout)
  assert [cell.stat().st_mtime_ns for cell in cells] == stamps
  for metric in METRICS:
    assert metric.title in first.stdout
  num_tables = len(METRICS) + 1  # and the layer with its gradients in forward passes
  assert len(list((tmp_path / 'parallelism').glob('*.csv'))) == num_tables
