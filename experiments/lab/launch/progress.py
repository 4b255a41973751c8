"""Progress of a command, shown as bars in a terminal and as one line per grid cell elsewhere."""

import functools
import sys
import time

from tqdm import tqdm

from experiments.lab import interruption


class Progress:
  """Displays the number of stored grid cells and the progress of the current grid cell."""

  def __init__(self, num_cells: int, num_missing: int):
    """Starts the display for `num_cells` grid cells, of which `num_missing` have no record."""
    self._cells, self._missing = num_cells, num_missing
    self._ended, self._start, self._waiting = 0, time.monotonic(), False
    self._total_bar = _progress_bar(self._stored_cells, num_missing)

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *_) -> None:
    if '_cell_bar' in vars(self):
      self._cell_bar.close()
    self._total_bar.close()

  def start_cell(self, label: str) -> None:
    """Shows the label of the grid cell whose execution starts."""
    self._cell_bar.set_postfix_str('', refresh=False)  # removes the text of the previous cell
    self._cell_bar.set_description(label, refresh=False)
    self._cell_bar.reset()

  def report_progress(self, fraction: float, text: str) -> None:
    """Shows the completed fraction of the grid cell, or raises Interrupted after a signal."""
    interruption.raise_if_stopped()
    self._cell_bar.update(fraction - self._cell_bar.n)
    self._cell_bar.set_postfix_str(text)

  def finish_cell(self, label: str, record: dict) -> None:
    """Adds a grid cell to the number of stored grid cells that the display shows."""
    self._ended += 1
    self._total_bar.set_description(self._stored_cells, refresh=False)
    self._total_bar.update(1)
    if self._total_bar.disable:
      seconds_per_cell = (time.monotonic() - self._start) / self._ended
      left = seconds_per_cell * (self._missing - self._ended)
      print(f'{self._stored_cells}: {label}: {record["status"]} in {record["seconds"]:.1f} s, '
            f'{left:.0f} s left', file=sys.stderr, flush=True)

  def show_waiting(self, num_missing: int) -> None:
    """Shows that other processes are executing all grid cells that have no stored record."""
    text = f'waiting for {num_missing} cells that other processes are executing'
    self._cell_bar.set_description(text)
    if self._total_bar.disable and not self._waiting:
      print(f'{self._stored_cells}: {text}', file=sys.stderr, flush=True)
    self._waiting = True

  @functools.cached_property
  def _cell_bar(self) -> tqdm:
    """The progress bar of the current grid cell, which is created on first use."""
    return _progress_bar('', 1.0)

  @property
  def _stored_cells(self) -> str:
    return f'{self._cells - self._missing + self._ended} of {self._cells} cells stored'


def _progress_bar(description: str, total: float) -> tqdm:
  """Creates a progress bar with the remaining time, which is displayed only in a terminal."""
  return tqdm(
    desc=description,
    total=total,
    disable=None,
    leave=False,
    bar_format='{desc} {percentage:3.0f}%|{bar:20}| {elapsed}, {remaining} left {postfix}',
  )
