"""Cells in processes of their own: the same records, and nothing lost when one of them ends ill."""

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
from experiments.lab.launch.workers import side_by_side
from experiments.lab.results.store import Store

CELLS = [Cell('workers', {'n': n}, f'cell {n}') for n in range(4)]


def execute(cell, report):
  """Where a cell is made, for which platforms alone, and its number."""
  report(0.5, 'half')
  if cell.run['n'] == 2:
    raise MemoryError('too large')
  platforms = jax.config.jax_platforms
  return Outcome({'n': cell.run['n'], 'process': os.getpid(), 'platforms': platforms})


def fate(n: int) -> int:
  """What becomes of a number: 2 is an error, 3 the end of its process, 5 and more take time."""
  if n >= 5:
    time.sleep(1)
  if n == 2:
    raise ValueError('two')
  if n == 3:
    os.kill(os.getpid(), signal.SIGKILL)
  return n * n


def test_cells_made_side_by_side_are_those_made_one_by_one(tmp_path, monkeypatch):
  alone = grid.launch(CELLS, execute, Store(tmp_path / 'alone'))
  stored = Store(tmp_path / 'together')
  stored.prepare()
  stored.write(alone[1])
  monkeypatch.setenv('JAX_PLATFORMS', '')  # a user says nothing
  together = grid.launch(CELLS, execute, stored, workers=2)
  assert together[1] == alone[1] and stored.records() == together
  for one, other in zip(alone, together, strict=True):
    for key in ('run', 'status', 'reason', 'versions'):
      assert one[key] == other[key]
    assert one['result'].get('n') == other['result'].get('n')
  assert [record['status'] for record in together] == [
    'finished', 'finished', 'out of memory', 'finished']
  for n in (0, 3):
    assert together[n]['result']['process'] != os.getpid()
    assert together[n]['result']['platforms'] == 'cpu'  # several cannot share a device
  assert {path.suffix for path in stored.cells.iterdir()} == {'.json'}  # leases are given back


def test_one_cell_needs_no_other_process(tmp_path):
  (record,) = grid.launch(CELLS[:1], execute, Store(tmp_path), workers=8)
  assert record['result']['process'] == os.getpid()


@pytest.mark.parametrize(
  ('numbers', 'error', 'why'),
  [
    ([1, 0, 2, 5, 6, 7, 8, 9], ValueError, 'two'),
    ([1, 0, 3, 5, 6, 7, 8, 9], BadInput, 'worker process died.* fewer --workers than 1'),
  ],
)
def test_what_ends_ill_ends_the_launch_after_what_was_made(numbers, error, why):
  seen = {}
  with pytest.raises(error, match=why):
    for i, value in side_by_side(fate, numbers, 1):
      time.sleep(0.2)  # so that the error is there before the second is looked at
      seen[i] = value
  assert seen.items() >= {0: 1, 1: 0}.items() and not {2, len(numbers) - 1} & {*seen}
  assert all(value == numbers[i] ** 2 for i, value in seen.items())


def sleep(seconds: float) -> float:
  time.sleep(seconds)
  return seconds


@pytest.mark.parametrize('number', interruption.SIGNALS)
def test_a_signal_ends_the_workers_at_once(number, handlers):
  made, start = [], time.monotonic()
  with pytest.raises(Interrupted), interruption.noticed():
    for _, seconds in side_by_side(sleep, [0.0, 300.0, 300.0], 1):
      made.append(seconds)
      os.kill(os.getpid(), number)
  assert made == [0.0] and time.monotonic() - start < 120
  assert not [child for child in multiprocessing.active_children() if child.is_alive()]


def test_ctrl_c_which_a_terminal_sends_to_all_is_left_to_the_process_that_launches():
  assert list(side_by_side(interrupted, [signal.SIGINT], 1)) == [(0, 'went on')]


def interrupted(number: int) -> str:
  os.kill(os.getpid(), number)
  return 'went on'
