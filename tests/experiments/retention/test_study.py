"""The study of retention, run as a user runs it: once, again, killed, damaged, diverging, late."""

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

from experiments.lab.cells import training as cell
from experiments.lab.results.store import Store
from experiments.lab.tasks import TASKS
from experiments.lab.training.loop import Member
from experiments.retention import study as retention
from tests.support import command, records

ROOT = pathlib.Path(__file__).parents[3]
LENGTHS = (4, 6, 8)
SMALL = ('--preset=smoke', '--layers=elman', '--tasks=adding', '--host_devices=2')
SCORES, BUDGETS = 'retention-score-against-distance', 'retention-budgets'


class Lab:
  """A folder in which studies run in processes of their own, which share compiled programs."""

  def __init__(self, folder):
    self.folder = folder

  def start(self, runs, *words, lengths=LENGTHS):
    asked = f'--lengths={",".join(map(str, lengths))}'
    return subprocess.Popen(
      [sys.executable, '-m', 'experiments.retention', *SMALL, asked, f'--runs={runs}',
       f'--cache={self.folder / "cache"}', *words],
      cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
      env=os.environ | {'JAX_PLATFORMS': 'cpu', 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'},
    )

  def run(self, runs, *words, **options):
    """What a study prints; it must end well."""
    process = self.start(runs, *words, **options)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out, err

  def undisturbed(self):
    """The results of a study that nothing happened to; made once for all test processes."""
    runs = self.folder / 'undisturbed'
    with open(self.folder / 'lock', 'w') as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)
      if not (runs / 'out').exists():
        out, err = self.run(runs)
        assert [line.partition(':')[0] for line in err.splitlines()] == [
          f'{n} of {len(LENGTHS)} cells stored' for n in range(1, len(LENGTHS) + 1)]
        (runs / 'out').write_text(out)
    return runs

  def copy(self, place):
    """A copy of these results, to do something to."""
    return shutil.copytree(self.undisturbed(), place / 'runs')


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
  base = tmp_path_factory.getbasetemp()
  folder = (base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base) / 'lab'
  folder.mkdir(exist_ok=True)
  return Lab(folder)


def cells(runs):
  """When each stored cell was written."""
  return {path.name: path.stat().st_mtime_ns for path in (runs / 'cells').glob('*.json')}


def table(runs, name=SCORES):
  return (runs / 'retention' / f'{name}.csv').read_text()


def told(runs):
  """All of the tables that does not depend on how fast the machine was."""
  budgets = list(csv.DictReader(io.StringIO(table(runs, BUDGETS))))
  assert all(float(row.pop('seconds')) >= 0 for row in budgets)
  return table(runs), budgets


def members(runs):
  """What became of every member, by task."""
  return {record['run']['task']: record['result']['members'] for record in Store(runs).records()}


@pytest.mark.slow
def test_every_question_is_answered_at_every_distance(lab):
  runs = lab.undisturbed()
  found = Store(runs).records()
  assert {r['run']['task'] for r in found} == {f'adding(length={n})' for n in LENGTHS}
  assert all(record['status'] == 'finished' for record in found)
  columns = [f'adding (Arjovsky) {n}' for n in LENGTHS]
  header, *rows = csv.reader(io.StringIO(table(runs)))
  assert header == ['layer', *(f'{c} {part}' for c in columns
                               for part in ('mean', 'low', 'high', 'count'))]
  assert [row[0] for row in rows] == ['elman', '(chance)', '(oracle)']
  for record in found:
    rate = record['result']['learning_rate']
    chosen = [m['test'] for m in record['result']['members'] if m['learning_rate'] == rate]
    place = header.index(f'adding (Arjovsky) {record["result"]["distance"]} mean')
    assert float(rows[0][place]) == pytest.approx(sum(chosen) / len(chosen), rel=1e-12)
    assert rows[0][place + 3] == '2'
  for name in (SCORES, BUDGETS):
    assert {p.suffix for p in (runs / 'retention').glob(f'{name}.*')} == {
      '.txt', '.md', '.tex', '.csv'}


@pytest.mark.slow
def test_the_second_launch_trains_nothing_and_says_the_same(lab, tmp_path, monkeypatch):
  runs = lab.copy(tmp_path)
  before = cells(runs)

  def train(*_):
    raise AssertionError('trained again')

  monkeypatch.setattr(cell, 'train_cell', lambda *_: train)
  words = [*SMALL, f'--lengths={",".join(map(str, LENGTHS))}', f'--runs={runs}', '--retry']
  done = command.run(retention, *words)
  assert (done.code, done.err) == (0, '') and cells(runs) == before
  assert table(runs) == table(lab.undisturbed())
  assert done.out.replace(str(runs), '') == (runs / 'out').read_text().replace(
    str(lab.undisturbed()), '')


@pytest.mark.slow
def test_a_killed_study_goes_on_where_it_was_and_ends_with_the_same_numbers(lab, tmp_path):
  wanted = told(lab.undisturbed())  # its programs are compiled now: the cells below are quick
  process, end = lab.start(tmp_path), time.monotonic() + 120
  while not cells(tmp_path) and time.monotonic() < end:
    time.sleep(0.01)
  process.send_signal(signal.SIGKILL)
  process.communicate()
  kept = cells(tmp_path)
  assert 1 <= len(kept) < len(LENGTHS)
  lab.run(tmp_path)
  found = cells(tmp_path)
  assert len(found) == len(LENGTHS)
  assert {name: found[name] for name in kept} == kept
  assert told(tmp_path) == wanted and members(tmp_path) == members(lab.undisturbed())


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_study_says_so_and_keeps_what_is_stored(lab, tmp_path, number, handlers):
  lab.undisturbed()  # its programs are compiled now
  process = lab.start(tmp_path, lengths=range(4, 64))
  process.stderr.readline()  # a cell is stored
  process.send_signal(number)
  out, err = process.communicate(timeout=300)
  (line,) = [line for line in err.splitlines() if 'cells stored' not in line]
  assert number.name in line and 'the same command goes on' in line
  assert process.returncode == 128 + number and out == ''
  found = {path.suffix for path in (tmp_path / 'cells').iterdir()}
  assert found == {'.json'} and 1 <= len(cells(tmp_path)) < 60


@pytest.mark.slow
def test_studies_at_once_in_one_folder_make_each_cell_once(lab, tmp_path):
  wanted = told(lab.undisturbed())
  launched = [lab.start(tmp_path) for _ in range(4)]
  ends = [process.communicate(timeout=300) for process in launched]
  assert [process.returncode for process in launched] == [0] * 4, ends
  assert len({out for out, _ in ends}) == 1 and told(tmp_path) == wanted
  assert {path.suffix for path in (tmp_path / 'cells').iterdir()} == {'.json'}


def blocked_by_a_file(place):
  shutil.rmtree(place)
  place.write_text('a file')


def blocked_by_a_folder(place):
  place.unlink()
  place.mkdir()


@pytest.mark.parametrize(('block', 'name', 'said'), [
  (blocked_by_a_file, '', 'it is no folder, and a folder is needed there'),
  (blocked_by_a_folder, f'{SCORES}.csv', 'it is a folder, and a file is needed there'),
  (blocked_by_a_folder, 'figure.png', 'it is a folder, and a file is needed there'),
])
def test_tables_that_cannot_be_written_are_printed_and_said_in_one_line(
    lab, tmp_path, block, name, said):
  runs = lab.copy(tmp_path)
  block(runs / 'retention' / name)
  done = command.run(retention, *SMALL, f'--lengths={",".join(map(str, LENGTHS))}',
                     f'--runs={runs}')
  (line,) = done.err.splitlines()
  assert (done.code, line) == (2, f'cannot use {runs / "retention" / name}: {said}')
  assert done.out and (runs / 'out').read_text().startswith(done.out)


def test_a_full_disk_leaves_the_tables_of_before(lab, tmp_path, monkeypatch):
  runs = lab.copy(tmp_path)
  before = {path: path.read_bytes() for path in (runs / 'retention').iterdir()}
  full = OSError(errno.ENOSPC, 'No space left on device')
  monkeypatch.setattr('os.fsync', mock.Mock(side_effect=full))
  done = command.run(retention, *SMALL, '--lengths=4,6', f'--runs={runs}')
  (line,) = done.err.splitlines()
  assert done.code == 2 and 'adding' in done.out
  assert line.startswith(f'cannot use {runs}/retention/') and line.endswith(full.strerror)
  assert {path: path.read_bytes() for path in (runs / 'retention').iterdir()} == before


def test_a_damaged_cell_is_named_set_aside_and_run_again(lab, tmp_path):
  runs = lab.copy(tmp_path)
  before = cells(runs)
  name = sorted(before)[0]
  path = runs / 'cells' / name
  damaged = path.read_bytes()[:-40]
  path.write_bytes(damaged)
  _, err = lab.run(runs)
  line, made = err.splitlines()
  assert name in line and 'set aside' in line and 'finished in' in made
  assert (runs / 'cells' / f'{name}.damaged').read_bytes() == damaged
  after = cells(runs)
  assert after.keys() == before.keys()
  assert [n for n in after if after[n] != before[n]] == [name]
  assert told(runs) == told(lab.undisturbed()) and members(runs) == members(lab.undisturbed())


@pytest.mark.slow
def test_pmap_gives_the_numbers_of_jit(lab, tmp_path):
  lab.run(tmp_path, '--parallel=pmap', lengths=LENGTHS[:1])
  ((task, found),) = members(tmp_path).items()
  assert found == members(lab.undisturbed())[task]


def test_divergence_is_a_result_and_shown_as_such(lab, tmp_path):
  out, err = lab.run(tmp_path, '--learning_rates=1e30,1e31', lengths=LENGTHS[:1])
  (record,) = Store(tmp_path).records()
  assert record['status'] == 'diverged' and 'finite' in record['reason']
  assert len(err.splitlines()) == 1 and ': diverged in' in err
  assert all(m['status'] == 'diverged' for m in record['result']['members'])
  assert all(math.isnan(m['test']) for m in record['result']['members'])
  (row,) = [line for line in out.splitlines() if line.startswith('elman')]
  assert row.split() == ['elman', 'diverged']
  assert table(tmp_path).splitlines()[1] == 'elman,diverged'


@pytest.mark.slow
def test_a_timeout_is_a_result_that_a_retry_replaces(lab, tmp_path):
  lab.run(tmp_path, '--timeout=1e-9', lengths=LENGTHS[:1])
  (record,) = Store(tmp_path).records()
  assert record['status'] == 'timeout' and '4 of 4 members' in record['reason']
  assert all(m['steps'] == 1 for m in record['result']['members'])
  assert table(tmp_path).splitlines()[1] == 'elman,timeout'
  lab.run(tmp_path, '--retry', lengths=LENGTHS[:1])
  (task,) = members(tmp_path)
  assert members(tmp_path)[task] == members(lab.undisturbed())[task]


def test_a_failed_cell_stands_in_the_column_of_its_question(lab):
  found = [r for r in Store(lab.undisturbed()).records() if r['result']['distance'] == 4]
  failed = [
    found[0] | {'run': found[0]['run'] | {'layer': name}, 'status': 'out of memory',
                'reason': '80 GB', 'result': {}}
    for name in ('attention', 'lstm')
  ]
  tables, panels = retention.report(failed + found)
  assert tables[0].columns == ('layer', 'adding (Arjovsky) 4')
  assert [row[:1] for row in tables[0].rows[:3]] == [('attention',), ('lstm',), ('elman',)]
  assert [row[1] for row in tables[0].rows[:2]] == ['out of memory'] * 2
  assert [row[-1] for row in tables[1].rows[:2]] == ['80 GB'] * 2
  (panel,) = panels
  assert list(panel.series) == ['elman']
  with contextlib.redirect_stdout(io.StringIO()):
    assert all(made.text() for made in retention.report(failed)[0])
  assert retention.report(failed)[1] == []


def test_runs_that_differ_in_more_than_the_layer_have_columns_of_their_own(lab):
  found = [r for r in Store(lab.undisturbed()).records() if r['result']['distance'] == 4]
  longer = [r | {'run': r['run'] | {'steps': 99, 'width': 9}} for r in found]
  table, *_ = retention.report(found + longer)[0]
  assert sorted(table.columns[1:]) == [
    'adding (Arjovsky) 4 steps=4 width=8', 'adding (Arjovsky) 4 steps=99 width=9']


values = st.floats(0, 1) | st.just(math.nan)


@settings(deadline=None)  # some tasks make a table at first
@given(
  st.dictionaries(st.sampled_from([1e-4, 1e-3, 1e-2]), st.tuples(values, values), min_size=1),
  st.sampled_from(sorted(TASKS)),
  st.randoms(),
)
def test_the_rate_is_chosen_by_validation_alone(validation, name, order):
  task = TASKS[name]()
  made = [
    Member(seed, rate, validation=metric, test=order.random())
    for rate, metrics in validation.items() for seed, metric in enumerate(metrics)
  ]
  chosen = cell.choose(task, made)
  order.shuffle(made)
  assert cell.choose(task, [dataclasses.replace(m, test=order.random()) for m in made]) == chosen
  merit = {rate: sum(metrics) / 2 for rate, metrics in validation.items()}
  finite = [value for value in merit.values() if math.isfinite(value)]
  if finite:
    best = max if task.metric.perfect > task.chance else min
    assert merit[chosen] == best(finite)


def test_records_that_other_tests_make_up_have_the_form_of_real_ones(lab, tmp_path):
  (made,) = records.stored(tmp_path, [records.trained('elman', 'adding', 4, (0.5,))]).records()
  real = Store(lab.undisturbed()).records()[0]
  for form in (lambda r: r, lambda r: r['run'], lambda r: r['result'],
               lambda r: r['result']['members'][0]):
    assert set(form(real)) == set(form(made))
  assert set(real['code']) == set(made['code'])
