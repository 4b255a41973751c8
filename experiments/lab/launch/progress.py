"""What a launch says of its progress: bars in a terminal, elsewhere a line for each cell."""

import functools
import sys
import time

from tqdm import tqdm

from experiments.lab import interruption


class Progress:
  """How many cells are stored, and how far the one that runs has come."""

  def __init__(self, cells: int, missing: int):
    """`cells` is how many there are in all, `missing` how many of them are to be made."""
    self._cells, self._missing = cells, missing
    self._ended, self._start, self._waiting = 0, time.monotonic(), False
    self._total = _bar(self._stored, missing)

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *_) -> None:
    if '_cell' in vars(self):
      self._cell.close()
    self._total.close()

  def begins(self, label: str) -> None:
    """A cell is being made."""
    self._cell.set_postfix_str('', refresh=False)  # the last cell's words are not this one's
    self._cell.set_description(label, refresh=False)
    self._cell.reset()

  def report(self, part: float, words: str) -> None:
    """The cell has come so far; Interrupted if a signal has asked the process to stop."""
    interruption.check()
    self._cell.update(part - self._cell.n)
    self._cell.set_postfix_str(words)

  def ends(self, label: str, record: dict) -> None:
    """A cell is stored, by this launch or another."""
    self._ended += 1
    self._total.set_description(self._stored, refresh=False)
    self._total.update(1)
    if self._total.disable:
      left = (time.monotonic() - self._start) / self._ended * (self._missing - self._ended)
      print(f'{self._stored}: {label}: {record["status"]} in {record["seconds"]:.1f} s, '
            f'{left:.0f} s left', file=sys.stderr, flush=True)

  def waits(self, count: int) -> None:
    """All cells that are left are being made by other launches."""
    words = f'waiting for {count} cells that other launches are making'
    self._cell.set_description(words)
    if self._total.disable and not self._waiting:
      print(f'{self._stored}: {words}', file=sys.stderr, flush=True)
    self._waiting = True

  @functools.cached_property
  def _cell(self) -> tqdm:
    """The bar of the cell that runs; there is none where cells run side by side."""
    return _bar('', 1.0)

  @property
  def _stored(self) -> str:
    return f'{self._cells - self._missing + self._ended} of {self._cells} cells stored'


def _bar(description: str, total: float) -> tqdm:
  """A progress bar with the time left; quiet when not a terminal."""
  return tqdm(
    desc=description,
    total=total,
    disable=None,
    leave=False,
    bar_format='{desc} {percentage:3.0f}%|{bar:20}| {elapsed}, {remaining} left {postfix}',
  )
