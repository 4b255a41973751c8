"""Tests of worker processes, which store the same records and lose none if a worker fails."""

import multiprocessing
import os
import signal
import time

import jax
import pytest

from experiments.lab import interruption
from experiments.lab.cells.cell import Cell, Outcome
from experiments.lab.errors import BadInput
from experiments.lab.interruption import Interrupted
from experiments.lab.launch import grid
from experiments.lab.launch.workers import map_in_processes
from experiments.lab.results.store import Store

CELLS = [Cell('workers', {'n': n}, f'cell {n}') for n in range(4)]


def report_process(cell, report_progress):
  """Executes a cell, whose result is its number, its process and JAX's platforms."""
  report_progress(0.5, 'half')
  if cell.run['n'] == 2:
    raise MemoryError('too large')
  platforms = jax.config.jax_platforms
  return Outcome({'n': cell.run['n'], 'process': os.getpid(), 'platforms': platforms})


def square_or_fail(n: int) -> int:
  """Squares a number, but raises an error for 2, kills its process for 3, and is slow from 5 on."""
  if n >= 5:
    time.sleep(1)
  if n == 2:
    raise ValueError('two')
  if n == 3:
    os.kill(os.getpid(), signal.SIGKILL)
  return n * n


def test_parallel_and_sequential_execution_store_the_same_records(tmp_path, monkeypatch):
  sequential = grid.run_grid_cells(CELLS, report_process, Store(tmp_path / 'alone'))
  store = Store(tmp_path / 'together')
  store.create_writable_folders()
  store.write(sequential[1])
  monkeypatch.setenv('JAX_PLATFORMS', '')  # as if the user had not set it
  parallel = grid.run_grid_cells(CELLS, report_process, store, workers=2)
  assert parallel[1] == sequential[1] and store.records() == parallel
  for sequential_record, parallel_record in zip(sequential, parallel, strict=True):
    for key in ('run', 'status', 'reason', 'versions'):
      assert sequential_record[key] == parallel_record[key]
    assert sequential_record['result'].get('n') == parallel_record['result'].get('n')
  assert [record['status'] for record in parallel] == [
    'finished', 'finished', 'out of memory', 'finished']
  for n in (0, 3):
    assert parallel[n]['result']['process'] != os.getpid()
    assert parallel[n]['result']['platforms'] == 'cpu'  # worker processes cannot share a device
  assert {path.suffix for path in store.cells.iterdir()} == {'.json'}  # all leases are removed


def test_a_single_cell_is_executed_in_the_main_process(tmp_path):
  (record,) = grid.run_grid_cells(CELLS[:1], report_process, Store(tmp_path), workers=8)
  assert record['result']['process'] == os.getpid()


@pytest.mark.parametrize(
  ('numbers', 'error', 'message'),
  [
    ([1, 0, 2, 5, 6, 7, 8, 9], ValueError, 'two'),
    ([1, 0, 3, 5, 6, 7, 8, 9], BadInput, 'worker process died.* fewer --workers than 1'),
  ],
)
def test_an_error_is_raised_after_the_results_of_finished_calls(numbers, error, message):
  results = {}
  with pytest.raises(error, match=message):
    for i, value in map_in_processes(square_or_fail, numbers, 1):
      time.sleep(0.2)  # lets the error occur before the second result is requested
      results[i] = value
  assert results.items() >= {0: 1, 1: 0}.items() and not {2, len(numbers) - 1} & {*results}
  assert all(value == numbers[i] ** 2 for i, value in results.items())


def sleep_and_return(seconds: float) -> float:
  time.sleep(seconds)
  return seconds


@pytest.mark.parametrize('number', interruption.SIGNALS)
def test_a_signal_ends_the_workers_immediately(number, default_signal_handlers):
  results, start = [], time.monotonic()
  with pytest.raises(Interrupted), interruption.deferred_signals():
    for _, seconds in map_in_processes(sleep_and_return, [0.0, 300.0, 300.0], 1):
      results.append(seconds)
      os.kill(os.getpid(), number)
  assert results == [0.0] and time.monotonic() - start < 120
  assert not [child for child in multiprocessing.active_children() if child.is_alive()]


def test_workers_ignore_ctrl_c():
  assert list(map_in_processes(send_signal_to_itself, [signal.SIGINT], 1)) == [(0, 'continued')]


def send_signal_to_itself(number: int) -> str:
  os.kill(os.getpid(), number)
  return 'continued'
