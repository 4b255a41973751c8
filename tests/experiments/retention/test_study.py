"""Tests of the study of retention as a command, when it is repeated, killed or fails."""

import contextlib
import csv
import dataclasses
import errno
import fcntl
import io
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.lab.cells import training
from experiments.lab.results.store import Store
from experiments.lab.tasks import TASKS
from experiments.lab.training.loop import Member
from experiments.retention import study as retention
from tests.support import command, records

ROOT = pathlib.Path(__file__).parents[3]
LENGTHS = (4, 6, 8)
SMALL = ('--preset=smoke', '--layers=elman', '--tasks=adding', '--host_devices=2')
SCORES = 'retention-score-against-distance'
BUDGETS = 'retention-parameter-budgets-and-training-time'


class StudyRunner:
  """Runs the study in subprocesses that share a cache of compiled programs in a folder."""

  def __init__(self, folder):
    self.folder = folder

  def start_study(self, runs, *words, lengths=LENGTHS):
    lengths_flag = f'--lengths={",".join(map(str, lengths))}'
    return subprocess.Popen(
      [sys.executable, '-m', 'experiments.retention', *SMALL, lengths_flag, f'--runs={runs}',
       f'--cache={self.folder / "cache"}', *words],
      cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      env=os.environ | {'JAX_PLATFORMS': 'cpu', 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'},
    )

  def run_study(self, runs, *words, **options):
    """The standard output and error of a study, which has to exit with code 0."""
    process = self.start_study(runs, *words, **options)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err

  def undisturbed_results(self):
    """The folder of results of an undisturbed run, computed once for all test processes."""
    runs = self.folder / 'undisturbed'
    with open(self.folder / 'lock', 'w') as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      if not (runs / 'out').exists():
        out, err = self.run_study(runs)
        assert [line.partition(':')[0] for line in err.splitlines()] == [
          f'{n} of {len(LENGTHS)} cells stored' for n in range(1, len(LENGTHS) + 1)]
        (runs / 'out').write_text(out)
    return runs

  def copy_undisturbed_results(self, folder):
    """A copy of the results of the undisturbed run, which a test may change."""
    return shutil.copytree(self.undisturbed_results(), folder / 'runs')


@pytest.fixture(scope='module')
def runner(tmp_path_factory):
  base = tmp_path_factory.getbasetemp()
  folder = (base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base) / 'runner'
  folder.mkdir(exist_ok=True)
  return StudyRunner(folder)


def modification_times(runs):
  """The modification time of each stored record by file name."""
  return {path.name: path.stat().st_mtime_ns for path in (runs / 'cells').glob('*.json')}


def read_csv_table(runs, name=SCORES):
  return (runs / 'retention' / f'{name}.csv').read_text()


def deterministic_tables(runs):
  """The tables of scores and of budgets, without the measured seconds."""
  budgets = list(csv.DictReader(io.StringIO(read_csv_table(runs, BUDGETS))))
  assert all(float(row.pop('seconds')) >= 0 for row in budgets)
  return read_csv_table(runs), budgets


def members_by_task(runs):
  """The results of all ensemble members by task."""
  return {record['run']['task']: record['result']['members'] for record in Store(runs).records()}


@pytest.mark.slow
def test_tables_contain_the_score_at_every_distance(runner):
  runs = runner.undisturbed_results()
  stored = Store(runs).records()
  assert {r['run']['task'] for r in stored} == {f'adding(length={n})' for n in LENGTHS}
  assert all(record['status'] == 'finished' for record in stored)
  columns = [f'adding (Arjovsky) {n}' for n in LENGTHS]
  header, *rows = csv.reader(io.StringIO(read_csv_table(runs)))
  assert header == ['layer', *(f'{c} {part}' for c in columns
                               for part in ('estimate', 'low', 'high', 'count'))]
  assert [row[0] for row in rows] == ['elman', '(chance)', '(oracle)']
  for record in stored:
    rate = record['result']['learning_rate']
    selected = [m['test'] for m in record['result']['members'] if m['learning_rate'] == rate]
    column = header.index(f'adding (Arjovsky) {record["result"]["distance"]} estimate')
    assert float(rows[0][column]) == pytest.approx(sum(selected) / len(selected), rel=1e-12)
    assert rows[0][column + 3] == '2'
  for name in (SCORES, BUDGETS):
    assert {p.suffix for p in (runs / 'retention').glob(f'{name}.*')} == {
      '.txt', '.md', '.tex', '.csv'}


@pytest.mark.slow
def test_second_run_prints_the_same_tables_without_training(runner, tmp_path, monkeypatch):
  runs = runner.copy_undisturbed_results(tmp_path)
  before = modification_times(runs)

  def fail_to_train(*_):
    raise AssertionError('a stored cell is trained again')

  monkeypatch.setattr(training, 'training_executor', lambda *_: fail_to_train)
  words = [*SMALL, f'--lengths={",".join(map(str, LENGTHS))}', f'--runs={runs}', '--retry']
  done = command.run_command(retention, *words)
  assert (done.code, done.err) == (0, '') and modification_times(runs) == before
  assert read_csv_table(runs) == read_csv_table(runner.undisturbed_results())
  assert done.out.replace(str(runs), '') == (runs / 'out').read_text().replace(
    str(runner.undisturbed_results()), '')


@pytest.mark.slow
def test_a_killed_study_resumes_and_yields_the_same_numbers(runner, tmp_path):
  # The undisturbed run fills the cache of compiled programs, so that the cells below are quick.
  expected = deterministic_tables(runner.undisturbed_results())
  process, end = runner.start_study(tmp_path), time.monotonic() + 120
  while not modification_times(tmp_path) and time.monotonic() < end:
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  before = modification_times(tmp_path)
  assert 1 <= len(before) < len(LENGTHS)
  runner.run_study(tmp_path)
  after = modification_times(tmp_path)
  assert len(after) == len(LENGTHS)
  assert {name: after[name] for name in before} == before
  assert deterministic_tables(tmp_path) == expected
  assert members_by_task(tmp_path) == members_by_task(runner.undisturbed_results())


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_study_reports_it_and_keeps_stored_cells(
  runner, tmp_path, number, default_signal_handlers
):
  runner.undisturbed_results()  # fills the cache of compiled programs
  process = runner.start_study(tmp_path, lengths=range(4, 64))
  process.stderr.readline()  # waits until a cell is stored
  process.send_signal(number)
  out, err = process.communicate(timeout=300)
  (line,) = [line for line in err.splitlines() if 'cells stored' not in line]
  assert number.name in line and 'the same command resumes' in line
  assert process.returncode == 128 + number and out == ''
  suffixes = {path.suffix for path in (tmp_path / 'cells').iterdir()}
  assert suffixes == {'.json'} and 1 <= len(modification_times(tmp_path)) < 60


@pytest.mark.slow
def test_concurrent_studies_in_one_folder_share_the_cells(runner, tmp_path):
  expected = deterministic_tables(runner.undisturbed_results())
  processes = [runner.start_study(tmp_path) for _ in range(4)]
  outputs = [process.communicate(timeout=300) for process in processes]
  assert [process.returncode for process in processes] == [0] * 4, outputs
  assert len({out for out, _ in outputs}) == 1 and deterministic_tables(tmp_path) == expected
  assert {path.suffix for path in (tmp_path / 'cells').iterdir()} == {'.json'}


def replace_folder_by_file(path):
  shutil.rmtree(path)
  path.write_text('a file')


def replace_file_by_folder(path):
  path.unlink()
  path.mkdir()


@pytest.mark.slow
@pytest.mark.parametrize(('block', 'name', 'message'), [
  (replace_folder_by_file, '', 'it is not a folder, and a folder is needed there'),
  (replace_file_by_folder, f'{SCORES}.csv', 'it is a folder, and a file is needed there'),
  (replace_file_by_folder, 'figure.png', 'it is a folder, and a file is needed there'),
])
def test_unwritable_tables_are_printed_with_an_error_of_one_line(
  runner, tmp_path, block, name, message
):
  runs = runner.copy_undisturbed_results(tmp_path)
  block(runs / 'retention' / name)
  done = command.run_command(retention, *SMALL, f'--lengths={",".join(map(str, LENGTHS))}',
                     f'--runs={runs}')
  (line,) = done.err.splitlines()
  assert (done.code, line) == (2, f'cannot use {runs / "retention" / name}: {message}')
  assert done.out and (runs / 'out').read_text().startswith(done.out)


@pytest.mark.slow
def test_a_full_disk_leaves_the_existing_tables(runner, tmp_path, monkeypatch):
  runs = runner.copy_undisturbed_results(tmp_path)
  before = {path: path.read_bytes() for path in (runs / 'retention').iterdir()}
  full = OSError(errno.ENOSPC, 'No space left on device')
  monkeypatch.setattr('os.fsync', mock.Mock(side_effect=full))
  done = command.run_command(retention, *SMALL, '--lengths=4,6', f'--runs={runs}')
  (line,) = done.err.splitlines()
  assert done.code == 2 and 'adding' in done.out
  assert line.startswith(f'cannot use {runs}/retention/') and line.endswith(full.strerror)
  assert {path: path.read_bytes() for path in (runs / 'retention').iterdir()} == before


@pytest.mark.slow
def test_a_damaged_cell_is_reported_set_aside_and_trained_again(runner, tmp_path):
  runs = runner.copy_undisturbed_results(tmp_path)
  before = modification_times(runs)
  name = sorted(before)[0]
  path = runs / 'cells' / name
  damaged = path.read_bytes()[:-40]
  path.write_bytes(damaged)
  _, err = runner.run_study(runs)
  line, made = err.splitlines()
  assert name in line and 'renamed to' in line and 'finished in' in made
  assert (runs / 'cells' / f'{name}.damaged').read_bytes() == damaged
  after = modification_times(runs)
  assert after.keys() == before.keys()
  assert [n for n in after if after[n] != before[n]] == [name]
  assert deterministic_tables(runs) == deterministic_tables(runner.undisturbed_results())
  assert members_by_task(runs) == members_by_task(runner.undisturbed_results())


@pytest.mark.slow
def test_pmap_and_jit_yield_the_same_numbers(runner, tmp_path):
  runner.run_study(tmp_path, '--parallel=pmap', lengths=LENGTHS[:1])
  ((task, members),) = members_by_task(tmp_path).items()
  assert members == members_by_task(runner.undisturbed_results())[task]


@pytest.mark.slow
def test_divergence_is_stored_and_printed_as_a_result(runner, tmp_path):
  out, err = runner.run_study(tmp_path, '--learning_rates=1e30,1e31', lengths=LENGTHS[:1])
  (record,) = Store(tmp_path).records()
  assert record['status'] == 'diverged' and 'finite' in record['reason']
  assert len(err.splitlines()) == 1 and ': diverged in' in err
  assert all(m['status'] == 'diverged' for m in record['result']['members'])
  assert all(math.isnan(m['test']) for m in record['result']['members'])
  (row,) = [line for line in out.splitlines() if line.startswith('elman')]
  assert row.split() == ['elman', 'diverged']
  assert read_csv_table(tmp_path).splitlines()[1] == 'elman,diverged'


@pytest.mark.slow
def test_a_timeout_is_stored_as_a_result_that_retry_replaces(runner, tmp_path):
  runner.run_study(tmp_path, '--timeout=1e-9', lengths=LENGTHS[:1])
  (record,) = Store(tmp_path).records()
  assert record['status'] == 'timeout' and '4 of 4 members' in record['reason']
  assert all(m['steps'] == 1 for m in record['result']['members'])
  assert read_csv_table(tmp_path).splitlines()[1] == 'elman,timeout'
  runner.run_study(tmp_path, '--retry', lengths=LENGTHS[:1])
  (task,) = members_by_task(tmp_path)
  assert members_by_task(tmp_path)[task] == members_by_task(runner.undisturbed_results())[task]


def test_a_failed_cell_is_shown_in_the_column_of_its_task():
  stored = [records.training_record('elman', 'adding', 4, (0.5, 0.6))]
  failed = [
    stored[0] | {'run': stored[0]['run'] | {'layer': name}, 'status': 'out of memory',
                'reason': '80 GB', 'result': {}}
    for name in ('attention', 'lstm')
  ]
  tables, panels = retention.report(failed + stored)
  assert tables[0].columns == ('layer', 'adding (Arjovsky) 4')
  assert [row[:1] for row in tables[0].rows[:3]] == [('attention',), ('lstm',), ('elman',)]
  assert [row[1] for row in tables[0].rows[:2]] == ['out of memory'] * 2
  assert [row[-1] for row in tables[1].rows[:2]] == ['80 GB'] * 2
  (panel,) = panels
  assert list(panel.series) == ['elman']
  with contextlib.redirect_stdout(io.StringIO()):
    assert all(made.text() for made in retention.report(failed)[0])
  assert retention.report(failed)[1] == []


def test_runs_with_different_settings_have_separate_columns():
  stored = [records.training_record('elman', 'adding', 4, (0.5, 0.6), steps=4, width=8)]
  longer = [r | {'run': r['run'] | {'steps': 99, 'width': 9}} for r in stored]
  table, *_ = retention.report(stored + longer)[0]
  assert sorted(table.columns[1:]) == [
    'adding (Arjovsky) 4 steps=4 width=8', 'adding (Arjovsky) 4 steps=99 width=9']


METRICS = st.floats(0, 1) | st.just(math.nan)


@settings(deadline=None)  # because some tasks compute a table when they are first used
@given(
  st.dictionaries(st.sampled_from([1e-4, 1e-3, 1e-2]), st.tuples(METRICS, METRICS), min_size=1),
  st.sampled_from(sorted(TASKS)),
  st.randoms(),
)
def test_learning_rate_is_selected_by_the_validation_metric_alone(validation, name, random):
  task = TASKS[name]()
  members = [
    Member(seed, rate, validation=metric, test=random.random())
    for rate, metrics in validation.items() for seed, metric in enumerate(metrics)
  ]
  selected = training.best_learning_rate(task, members)
  random.shuffle(members)
  other_tests = [dataclasses.replace(member, test=random.random()) for member in members]
  assert training.best_learning_rate(task, other_tests) == selected
  means = {rate: sum(metrics) / 2 for rate, metrics in validation.items()}
  finite = [value for value in means.values() if math.isfinite(value)]
  if finite:
    best = max if task.metric.perfect > task.chance_level else min
    assert means[selected] == best(finite)


@pytest.mark.slow
def test_synthetic_records_of_tests_have_the_fields_of_real_records(runner, tmp_path):
  record = records.training_record('elman', 'adding', 4, (0.5,))
  (synthetic,) = records.store_records(tmp_path, [record]).records()
  real = Store(runner.undisturbed_results()).records()[0]
  for part in (lambda r: r, lambda r: r['run'], lambda r: r['result'],
               lambda r: r['result']['members'][0]):
    assert set(part(real)) == set(part(synthetic))
  assert set(real['code']) == set(synthetic['code'])
