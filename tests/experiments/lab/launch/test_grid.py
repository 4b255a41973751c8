"""A grid of cells: each is made once, by one launch; signals and memory end it as they should."""

import contextlib
import io
import os
import pathlib
import pty
import re
import subprocess
import sys
import termios
import threading
import time
from unittest import mock

import jax
import jax.numpy as jnp
import pytest

from experiments.lab import interruption
from experiments.lab.cells.cell import Cell, Outcome
from experiments.lab.interruption import Interrupted
from experiments.lab.launch import grid
from experiments.lab.results.store import Store, StoreError

ROOT = pathlib.Path(__file__).parents[4]
CELLS = [Cell('grid', {'n': n}, f'cell {n}') for n in range(4)]


class Execute:
  """Says what becomes of each cell, and remembers which were executed."""

  def __init__(self, **fates):
    self.fates, self.seen = fates, []

  def __call__(self, cell, report):
    n = cell.run['n']
    self.seen.append(n)
    report(0.5, 'half')
    fate = self.fates.get(f'cell_{n}', Outcome({'n': n}))
    report(1.0, 'whole')
    return fate() if callable(fate) else fate


@pytest.fixture
def store(tmp_path):
  return Store(tmp_path / 'results')


def too_large():
  return jnp.zeros((1 << 20, 1 << 20, 64)) + 1


def out_of_memory():
  raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: 80 GB\nthen\nmany\nlines')


def out_of_host_memory():
  raise MemoryError('Unable to allocate 9 EiB\nfor an array')


def test_what_is_stored_is_not_executed_and_the_order_of_the_grid_is_kept(store):
  first = Execute()
  stored = grid.launch(CELLS[1:3], first, store)
  assert first.seen == [1, 2]
  files = {path: path.stat().st_mtime_ns for path in store.cells.iterdir()}
  second = Execute()
  records = grid.launch(CELLS[::-1], second, store)
  assert second.seen == [3, 0]
  assert [record['run']['n'] for record in records] == [3, 2, 1, 0]
  assert records[1:3] == stored[::-1]
  assert {path: path.stat().st_mtime_ns for path in files} == files
  third = Execute()
  assert grid.launch(CELLS[::-1], third, store, retry=True) == records and third.seen == []


def test_only_a_retry_executes_again_what_did_not_finish(store):
  unfinished = {
    'cell_0': Outcome({}, 'timeout', 'late'),
    'cell_1': Outcome({'n': 1}, 'diverged', 'NaN'),
    'cell_2': too_large,
  }
  grid.launch(CELLS, Execute(**unfinished), store)
  again = Execute(**unfinished)
  before = grid.launch(CELLS, again, store)
  assert again.seen == []
  assert [r['status'] for r in before] == ['timeout', 'diverged', 'out of memory', 'finished']
  retried = Execute()
  after = grid.launch(CELLS, retried, store, retry=True)
  assert retried.seen == [0, 1, 2]
  assert [record['status'] for record in after] == ['finished'] * 4
  assert store.records() == sorted(after, key=lambda record: record['run']['n'])


@pytest.mark.parametrize('fault', [too_large, out_of_memory, out_of_host_memory])
def test_out_of_memory_is_a_record_with_its_reason_and_the_next_cell_runs(store, fault):
  execute = Execute(cell_1=fault)
  records = grid.launch(CELLS[:3], execute, store)
  assert execute.seen == [0, 1, 2]
  assert [record['status'] for record in records] == ['finished', 'out of memory', 'finished']
  reason = records[1]['reason']
  assert reason and len(reason.splitlines()) == 1
  assert records[1]['result'] == {} and store.records() == records


@pytest.mark.parametrize(
  'error', [ValueError('bug'), jax.errors.JaxRuntimeError('INTERNAL: bug'), KeyboardInterrupt()]
)
def test_any_other_error_ends_the_launch_and_leaves_what_was_stored(store, error):
  def fail():
    raise error

  execute = Execute(cell_1=fail)
  with pytest.raises(type(error)):
    grid.launch(CELLS, execute, store)
  assert execute.seen == [0, 1]
  assert [record['run']['n'] for record in store.records()] == [0]
  resumed = Execute()
  assert len(grid.launch(CELLS, resumed, store)) == 4 and resumed.seen == [1, 2, 3]


def test_a_record_says_where_and_by_what_it_was_made(store):
  (record,) = grid.launch(CELLS[:1], Execute(), store)
  assert record['study'] == 'grid' and record['run'] == {'n': 0} and record['result'] == {'n': 0}
  assert record['seconds'] > 0 and record['device'] and jax.__version__ in record['versions']['jax']


def test_where_no_terminal_is_each_cell_is_a_line(store):
  error = io.StringIO()
  with contextlib.redirect_stderr(error):
    grid.launch(CELLS[:1], Execute(), store)
    grid.launch(CELLS, Execute(cell_2=out_of_memory), store)
    grid.launch(CELLS, Execute(), store)
  lines = [re.sub(r'\d+(\.\d)? s', 'N s', line) for line in error.getvalue().splitlines()]
  assert lines == [
    '1 of 1 cells stored: cell 0: finished in N s, N s left',
    '2 of 4 cells stored: cell 1: finished in N s, N s left',
    '3 of 4 cells stored: cell 2: out of memory in N s, N s left',
    '4 of 4 cells stored: cell 3: finished in N s, N s left',
  ]


@pytest.mark.parametrize('moment', ['in a cell', 'after its last report'])
@pytest.mark.parametrize('number', interruption.SIGNALS)
def test_a_signal_ends_a_launch_and_leaves_what_was_stored(store, number, moment, handlers):
  def execute(cell, report):
    seen.append(cell.run['n'])
    if cell.run['n'] == 1:
      os.kill(os.getpid(), number)
      if moment == 'in a cell':
        report(0.5, 'half')
        seen.append('went on')
    return Outcome({})

  seen = []
  with pytest.raises(Interrupted) as caught, interruption.noticed():
    grid.launch(CELLS, execute, store)
  assert caught.value.exit_code == 128 + number and seen == [0, 1]
  assert len(store.records()) == (1 if moment == 'in a cell' else 2)
  assert {path.suffix for path in store.cells.iterdir()} == {'.json'}  # no lease is left


def test_launches_at_once_make_each_cell_once_and_have_all_records(store, monkeypatch):
  monkeypatch.setattr(grid, 'POLL', 0.01)
  cells = [Cell('grid', {'n': n}, f'cell {n}') for n in range(8)]
  seen, found, start = [], [], threading.Barrier(4)

  def execute(cell, report):
    seen.append(cell.run['n'])
    time.sleep(0.02)
    return Outcome({'n': cell.run['n']})

  def run():
    start.wait()
    found.append(grid.launch(cells, execute, store))

  threads = [threading.Thread(target=run) for _ in range(4)]
  with contextlib.redirect_stderr(io.StringIO()):
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
  assert sorted(seen) == list(range(8))
  assert found == [store.records()] * 4


def test_a_retry_at_once_with_another_makes_an_unfinished_cell_once(store):
  grid.launch(CELLS[:1], Execute(cell_0=Outcome({}, 'timeout')), store)
  second = Execute()

  def during_the_first():
    (record,) = grid.launch(CELLS[:1], lambda *_: Outcome({'by': 'first'}), store, retry=True)
    return record

  before = store.read
  record = during_the_first()
  with mock.patch.object(store, 'read', mock.Mock(side_effect=[
      record | {'status': 'timeout'}, before('grid', CELLS[0].run)])):
    assert grid.launch(CELLS[:1], second, store, retry=True) == [record]
  assert second.seen == []


def test_a_cell_whose_holder_is_killed_is_made_by_the_launch_that_waits(store, monkeypatch):
  monkeypatch.setattr(grid, 'POLL', 0.01)
  path = grid._lease_of(CELLS[0], store.prepare())
  code = f"""
import time, pathlib
from experiments.lab.launch import lease
with lease.held(pathlib.Path({str(path)!r})) as mine:
  print(mine, flush=True)
  time.sleep(60)
"""
  holder = subprocess.Popen([sys.executable, '-c', code], cwd=ROOT, stdout=subprocess.PIPE)
  assert holder.stdout.readline() == b'True\n'
  error, execute = io.StringIO(), Execute()

  def kill(*_):
    holder.kill()
    holder.communicate()

  with contextlib.redirect_stderr(error), mock.patch.object(interruption, 'wait', kill):
    grid.launch(CELLS[:2], execute, store)
  assert execute.seen == [1, 0]  # what another launch makes comes last
  assert 'waiting for 1 cells that other launches are making' in error.getvalue()
  assert not path.exists()


def test_a_finished_grid_is_read_where_nothing_can_be_written(store, monkeypatch):
  records = grid.launch(CELLS, Execute(), store)
  monkeypatch.setattr(Store, 'prepare', mock.Mock(side_effect=StoreError('read-only')))
  assert grid.launch(CELLS, Execute(), store) == records
  with pytest.raises(StoreError, match='read-only'):
    grid.launch([Cell('grid', {'n': 9}, '')], Execute(), store)


def test_a_terminal_gets_the_cell_what_it_reports_and_the_time_left(store):
  leader, follower = pty.openpty()
  termios.tcsetwinsize(follower, (24, 100))
  seen = []

  def watch():
    with contextlib.suppress(OSError):  # Linux says so when the other end is closed
      while data := os.read(leader, 2**16):
        seen.append(data)

  watcher = threading.Thread(target=watch)
  watcher.start()
  with os.fdopen(follower, 'w') as terminal, contextlib.redirect_stderr(terminal):
    grid.launch(CELLS[:1], Execute(), store)
    grid.launch(CELLS, Execute(), store)
  watcher.join()
  os.close(leader)
  drawn = b''.join(seen).decode()
  assert 'cell 0' in drawn and 'half' in drawn and '1 of 4 cells stored' in drawn
  assert re.search(r'50%\|█+ *\| \d\d:\d\d, \d\d:\d\d left', drawn)
  assert re.search(r'cell 2: +50%[^\r]*left , half', drawn)
  assert not re.search(r'cell .: +0%[^\r]*whole', drawn)  # which the last cell reported
