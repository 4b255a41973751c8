"""A grid of cells: what is stored is skipped, what runs is stored, whatever becomes of it."""

import dataclasses
import functools
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
from tqdm import tqdm

from experiments.launch import environment
from experiments.launch.workers import side_by_side
from experiments.results import times
from experiments.results.store import Store

EXHAUSTED = re.compile(r'RESOURCE_EXHAUSTED|out of memory', re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What executing a cell came to."""

  result: dict
  status: str = 'finished'
  reason: str = ''


@dataclasses.dataclass(frozen=True)
class Cell:
  """One point of a grid: who asks, what identifies it, and a few words for the progress bar."""

  study: str
  run: dict
  label: str


def launch(
  cells: Iterable[Cell],
  execute: Callable[[Cell, Callable[[float, str], None]], Outcome],
  store: Store,
  retry: bool = False,
  workers: int = 1,
) -> list[dict]:
  """Executes the cells that the store does not have; returns the records of all.

  Args:
    cells: the grid.
    execute: runs a cell; it is given the cell and a function to report progress to, which takes
      the part that is done and a few words.
    store: where records are.
    retry: whether cells run again that are stored but did not finish, or have times that did not
      repeat.
    workers: how many cells run side by side, in processes that import `execute`.

  """
  store.prepare()
  cells = list(cells)
  records = [store.read(cell.study, cell.run) for cell in cells]
  missing = [
    i for i, record in enumerate(records)
    if record is None or (retry and not times.settled(record))
  ]
  settled, workers = len(cells) - len(missing), min(workers, len(missing))
  make = functools.partial(_side_by_side, workers=workers) if workers > 1 else _one_by_one
  with _bar(f'{settled} of {len(cells)} cells stored', len(missing)) as bar:
    for i, record in make([cells[i] for i in missing], execute):
      records[missing[i]] = store.write(record)
      bar.update(1)
      bar.set_description(f'{settled + bar.n:.0f} of {len(cells)} cells stored')
  return records


def _one_by_one(cells: Sequence[Cell], execute) -> Iterator[tuple[int, dict]]:
  """Each cell's number and record, and a bar of the one that runs."""
  with _bar('', 1.0) as bar:

    def report(part: float, words: str) -> None:
      bar.update(part - bar.n)
      bar.set_postfix_str(words)

    for i, cell in enumerate(cells):
      bar.reset()
      bar.set_description(cell.label)
      yield i, _record(cell, execute, report)


def _side_by_side(cells: Sequence[Cell], execute, workers: int) -> Iterator[tuple[int, dict]]:
  """The same from several processes, in the order in which cells end."""
  record = functools.partial(_record, execute=execute, report=_unheard)
  return side_by_side(record, cells, workers)


def _unheard(part: float, words: str) -> None:
  """What a cell reports where no bar is."""


def _record(cell: Cell, execute, report) -> dict[str, Any]:
  """Executes a cell; running out of memory is a result like any other."""
  start = time.perf_counter()
  try:
    outcome = execute(cell, report)
  except (jax.errors.JaxRuntimeError, MemoryError) as error:
    if not (isinstance(error, MemoryError) or EXHAUSTED.search(str(error))):
      raise
    outcome = Outcome({}, 'out of memory', str(error).partition('\n')[0])
  return {
    'study': cell.study,
    'run': cell.run,
    **dataclasses.asdict(outcome),
    'seconds': time.perf_counter() - start,
    'device': environment.device(),
    'versions': environment.versions(),
    'commit': environment.commit(),
  }


def _bar(description: str, total: float) -> tqdm:
  """A progress bar with the time left; quiet when not a terminal."""
  return tqdm(
    desc=description,
    total=total,
    disable=None,
    leave=False,
    bar_format='{desc} {percentage:3.0f}%|{bar:20}| {elapsed}, {remaining} left {postfix}',
  )
