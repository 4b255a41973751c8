"""Progress of a command, shown as bars in a terminal and as one line per grid cell elsewhere."""

import functools
import sys
import time

from tqdm import tqdm

from experiments.lab import interruption


class Progress:
  """Displays the number of stored grid cells and the progress of the current grid cell."""

  def __init__(self, num_grid_cells: int, num_missing: int):
    """Starts the display of grid cells, of which `num_missing` have no stored record."""
    self._cells, self._missing = num_grid_cells, num_missing
    self._ended, self._start, self._waiting = 0, time.monotonic(), False
    self._total_bar = _progress_bar(self._num_stored_grid_cells_as_text, num_missing)

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *_) -> None:
    if '_progress_bar_of_grid_cell' in vars(self):
      self._progress_bar_of_grid_cell.close()
    self._total_bar.close()

  def start_grid_cell(self, label: str) -> None:
    """Shows the label of the grid cell whose execution starts."""
    # Clear the progress text of the previous grid cell.
    self._progress_bar_of_grid_cell.set_postfix_str('', refresh=False)
    self._progress_bar_of_grid_cell.set_description(label, refresh=False)
    self._progress_bar_of_grid_cell.reset()

  def report_progress(self, fraction: float, text: str) -> None:
    """Shows the completed fraction of the current grid cell.

    Raises Interrupted if the process has received a signal to stop.
    """
    interruption.raise_if_stopped()
    self._progress_bar_of_grid_cell.update(fraction - self._progress_bar_of_grid_cell.n)
    self._progress_bar_of_grid_cell.set_postfix_str(text)

  def finish_grid_cell(self, label: str, record: dict) -> None:
    """Increases the displayed number of stored grid cells by one."""
    self._ended += 1
    self._total_bar.set_description(self._num_stored_grid_cells_as_text, refresh=False)
    self._total_bar.update(1)
    if self._total_bar.disable:
      seconds_per_cell = (time.monotonic() - self._start) / self._ended
      left = seconds_per_cell * (self._missing - self._ended)
      print(f'{self._num_stored_grid_cells_as_text}: {label}: '
            f'{record["status"]} in {record["seconds"]:.1f} s, {left:.0f} s left',
            file=sys.stderr, flush=True)

  def show_waiting_for_other_processes(self, num_unfinished_grid_cells: int) -> None:
    """Shows that other processes are executing all grid cells that have no stored record."""
    text = f'waiting for {num_unfinished_grid_cells} cells that other processes are executing'
    self._progress_bar_of_grid_cell.set_description(text)
    if self._total_bar.disable and not self._waiting:
      print(f'{self._num_stored_grid_cells_as_text}: {text}', file=sys.stderr, flush=True)
    self._waiting = True

  @functools.cached_property
  def _progress_bar_of_grid_cell(self) -> tqdm:
    """The progress bar of the current grid cell, which is created on first use."""
    return _progress_bar('', 1.0)

  @property
  def _num_stored_grid_cells_as_text(self) -> str:
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
