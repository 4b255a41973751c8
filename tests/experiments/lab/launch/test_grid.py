"""Tests of grids, in which one process executes each cell once and every outcome is stored."""

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


class RecordingExecutor:
  """Returns or raises a given outcome for each cell, and records the executed cells."""

  def __init__(self, **outcomes):
    self.outcomes, self.executed = outcomes, []

  def __call__(self, cell, report_progress):
    n = cell.run['n']
    self.executed.append(n)
    report_progress(0.5, 'half')
    outcome = self.outcomes.get(f'cell_{n}', Outcome({'n': n}))
    report_progress(1.0, 'whole')
    return outcome() if callable(outcome) else outcome


@pytest.fixture
def store(tmp_path):
  return Store(tmp_path / 'results')


def allocate_too_much():
  return jnp.zeros((1 << 20, 1 << 20, 64)) + 1


def raise_out_of_memory():
  raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: 80 GB\nthen\nmany\nlines')


def raise_out_of_host_memory():
  raise MemoryError('Unable to allocate 9 EiB\nfor an array')


def test_stored_cells_are_not_executed_and_the_order_of_the_grid_is_kept(store):
  first = RecordingExecutor()
  stored = grid.run_grid_cells(CELLS[1:3], first, store)
  assert first.executed == [1, 2]
  files = {path: path.stat().st_mtime_ns for path in store.cells.iterdir()}
  second = RecordingExecutor()
  records = grid.run_grid_cells(CELLS[::-1], second, store)
  assert second.executed == [3, 0]
  assert [record['run']['n'] for record in records] == [3, 2, 1, 0]
  assert records[1:3] == stored[::-1]
  assert {path: path.stat().st_mtime_ns for path in files} == files
  third = RecordingExecutor()
  assert grid.run_grid_cells(CELLS[::-1], third, store, retry=True) == records
  assert third.executed == []


def test_only_a_retry_executes_unfinished_cells_again(store):
  unfinished = {
    'cell_0': Outcome({}, 'timeout', 'late'),
    'cell_1': Outcome({'n': 1}, 'diverged', 'NaN'),
    'cell_2': allocate_too_much,
  }
  grid.run_grid_cells(CELLS, RecordingExecutor(**unfinished), store)
  unretried = RecordingExecutor(**unfinished)
  before = grid.run_grid_cells(CELLS, unretried, store)
  assert unretried.executed == []
  assert [r['status'] for r in before] == ['timeout', 'diverged', 'out of memory', 'finished']
  retried = RecordingExecutor()
  after = grid.run_grid_cells(CELLS, retried, store, retry=True)
  assert retried.executed == [0, 1, 2]
  assert [record['status'] for record in after] == ['finished'] * 4
  assert store.records() == sorted(after, key=lambda record: record['run']['n'])


@pytest.mark.parametrize(
  'fault', [allocate_too_much, raise_out_of_memory, raise_out_of_host_memory])
def test_out_of_memory_is_recorded_with_its_reason_and_the_next_cell_is_executed(store, fault):
  execute = RecordingExecutor(cell_1=fault)
  records = grid.run_grid_cells(CELLS[:3], execute, store)
  assert execute.executed == [0, 1, 2]
  assert [record['status'] for record in records] == ['finished', 'out of memory', 'finished']
  reason = records[1]['reason']
  assert reason and len(reason.splitlines()) == 1
  assert records[1]['result'] == {} and store.records() == records


@pytest.mark.parametrize(
  'error', [ValueError('bug'), jax.errors.JaxRuntimeError('INTERNAL: bug'), KeyboardInterrupt()]
)
def test_any_other_error_ends_the_command_and_keeps_stored_records(store, error):
  def fail():
    raise error

  execute = RecordingExecutor(cell_1=fail)
  with pytest.raises(type(error)):
    grid.run_grid_cells(CELLS, execute, store)
  assert execute.executed == [0, 1]
  assert [record['run']['n'] for record in store.records()] == [0]
  resumed = RecordingExecutor()
  assert len(grid.run_grid_cells(CELLS, resumed, store)) == 4 and resumed.executed == [1, 2, 3]


def test_a_record_contains_its_study_run_device_and_versions(store):
  (record,) = grid.run_grid_cells(CELLS[:1], RecordingExecutor(), store)
  assert record['study'] == 'grid' and record['run'] == {'n': 0} and record['result'] == {'n': 0}
  assert record['seconds'] > 0 and record['device'] and jax.__version__ in record['versions']['jax']


def test_without_a_terminal_each_cell_is_reported_in_one_line(store):
  error = io.StringIO()
  with contextlib.redirect_stderr(error):
    grid.run_grid_cells(CELLS[:1], RecordingExecutor(), store)
    grid.run_grid_cells(CELLS, RecordingExecutor(cell_2=raise_out_of_memory), store)
    grid.run_grid_cells(CELLS, RecordingExecutor(), store)
  lines = [re.sub(r'\d+(\.\d)? s', 'N s', line) for line in error.getvalue().splitlines()]
  assert lines == [
    '1 of 1 cells stored: cell 0: finished in N s, N s left',
    '2 of 4 cells stored: cell 1: finished in N s, N s left',
    '3 of 4 cells stored: cell 2: out of memory in N s, N s left',
    '4 of 4 cells stored: cell 3: finished in N s, N s left',
  ]


@pytest.mark.parametrize('moment', ['in a cell', 'after its last report'])
@pytest.mark.parametrize('number', interruption.SIGNALS)
def test_a_signal_ends_a_command_and_keeps_stored_records(
    store, number, moment, default_signal_handlers):
  def execute(cell, report_progress):
    events.append(cell.run['n'])
    if cell.run['n'] == 1:
      os.kill(os.getpid(), number)
      if moment == 'in a cell':
        report_progress(0.5, 'half')
        events.append('continued')
    return Outcome({})

  events = []
  with pytest.raises(Interrupted) as caught, interruption.deferred_signals():
    grid.run_grid_cells(CELLS, execute, store)
  assert caught.value.exit_code == 128 + number and events == [0, 1]
  assert len(store.records()) == (1 if moment == 'in a cell' else 2)
  assert {path.suffix for path in store.cells.iterdir()} == {'.json'}  # no lease is left


def test_concurrent_commands_execute_each_cell_once_and_return_all_records(store, monkeypatch):
  monkeypatch.setattr(grid, 'POLL_SECONDS', 0.01)
  cells = [Cell('grid', {'n': n}, f'cell {n}') for n in range(8)]
  executed, returned, start = [], [], threading.Barrier(4)

  def execute(cell, report_progress):
    executed.append(cell.run['n'])
    time.sleep(0.02)
    return Outcome({'n': cell.run['n']})

  def run_command():
    start.wait()
    returned.append(grid.run_grid_cells(cells, execute, store))

  threads = [threading.Thread(target=run_command) for _ in range(4)]
  with contextlib.redirect_stderr(io.StringIO()):
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
  assert sorted(executed) == list(range(8))
  assert returned == [store.records()] * 4


def test_two_concurrent_retries_execute_an_unfinished_cell_once(store):
  grid.run_grid_cells(CELLS[:1], RecordingExecutor(cell_0=Outcome({}, 'timeout')), store)
  second = RecordingExecutor()
  (record,) = grid.run_grid_cells(CELLS[:1], lambda *_: Outcome({'by': 'first'}), store, retry=True)
  # The second command reads the store before and after the first command replaces the record.
  with mock.patch.object(store, 'read', mock.Mock(side_effect=[
      record | {'status': 'timeout'}, store.read('grid', CELLS[0].run)])):
    assert grid.run_grid_cells(CELLS[:1], second, store, retry=True) == [record]
  assert second.executed == []


def test_a_waiting_command_executes_the_cell_of_a_killed_process(store, monkeypatch):
  monkeypatch.setattr(grid, 'POLL_SECONDS', 0.01)
  path = grid._lease_path(CELLS[0], store.create_writable_folders())
  code = f"""
import time, pathlib
from experiments.lab.launch import lease
with lease.hold_lease(pathlib.Path({str(path)!r})) as acquired:
  print(acquired, flush=True)
  time.sleep(60)
"""
  holder = subprocess.Popen([sys.executable, '-c', code], cwd=ROOT, stdout=subprocess.PIPE)
  assert holder.stdout.readline() == b'True\n'
  error, execute = io.StringIO(), RecordingExecutor()

  def kill_holder(*_):
    holder.kill()
    holder.communicate()

  with (
    contextlib.redirect_stderr(error),
    mock.patch.object(interruption, 'sleep_unless_interrupted', kill_holder),
  ):
    grid.run_grid_cells(CELLS[:2], execute, store)
  assert execute.executed == [1, 0]  # the cell of the other process is awaited at the end
  assert 'waiting for 1 cells that other processes are executing' in error.getvalue()
  assert not path.exists()


def test_a_finished_grid_is_read_from_a_folder_without_write_permission(store, monkeypatch):
  records = grid.run_grid_cells(CELLS, RecordingExecutor(), store)
  monkeypatch.setattr(
    Store, 'create_writable_folders', mock.Mock(side_effect=StoreError('read-only')))
  assert grid.run_grid_cells(CELLS, RecordingExecutor(), store) == records
  with pytest.raises(StoreError, match='read-only'):
    grid.run_grid_cells([Cell('grid', {'n': 9}, '')], RecordingExecutor(), store)


def test_a_terminal_shows_the_cell_its_progress_and_the_remaining_time(store):
  leader, follower = pty.openpty()
  termios.tcsetwinsize(follower, (24, 100))
  chunks = []

  def read_terminal():
    with contextlib.suppress(OSError):  # Linux raises it when the other end is closed
      while data := os.read(leader, 2**16):
        chunks.append(data)

  reader = threading.Thread(target=read_terminal)
  reader.start()
  with os.fdopen(follower, 'w') as terminal, contextlib.redirect_stderr(terminal):
    grid.run_grid_cells(CELLS[:1], RecordingExecutor(), store)
    grid.run_grid_cells(CELLS, RecordingExecutor(), store)
  reader.join()
  os.close(leader)
  output = b''.join(chunks).decode()
  assert 'cell 0' in output and 'half' in output and '1 of 4 cells stored' in output
  assert re.search(r'50%\|█+ *\| \d\d:\d\d, \d\d:\d\d left', output)
  assert re.search(r'cell 2: +50%[^\r]*left , half', output)
  assert not re.search(r'cell .: +0%[^\r]*whole', output)  # a text of the previous cell
