"""A grid of cells: what is stored is skipped, what runs is stored, whatever becomes of it."""

import dataclasses
import functools
import pathlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax

from experiments import interruption
from experiments.launch import environment, lease
from experiments.launch.progress import Progress
from experiments.launch.workers import side_by_side
from experiments.results import times
from experiments.results.store import Store, key_of

EXHAUSTED = re.compile(r'RESOURCE_EXHAUSTED|out of memory', re.IGNORECASE)
POLL = 1.0  # seconds between looks at the cells that other launches are making


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

  A cell that another launch is making is passed by; at the end its record is waited for.

  Args:
    cells: the grid.
    execute: runs a cell; it is given the cell and a function to report progress to, which takes
      the part that is done and a few words.
    store: where records are.
    retry: whether cells run again that are stored but did not finish, or have times that did not
      repeat.
    workers: how many cells run side by side, in processes that import `execute`.

  """
  cells = list(cells)
  records = [store.read(cell.study, cell.run) for cell in cells]
  missing = [
    i for i, record in enumerate(records)
    if record is None or (retry and not times.settled(record))
  ]
  if not missing:  # and the folder may be one that cannot be written to
    return records
  store.prepare()
  before = {i: records[i] for i in missing}
  with Progress(len(cells), len(missing)) as progress:
    while missing:
      free = [i for i in missing if lease.is_free(_lease_of(cells[i], store))]
      left = len(missing)
      make = functools.partial(_make, store=store, execute=execute)
      jobs = [(cells[i], before[i]) for i in free]
      for place, record in _made(make, jobs, min(workers, len(jobs)), progress):
        if record is not None:
          i = free[place]
          records[i] = record
          missing.remove(i)
          progress.ends(cells[i].label, record)
      if len(missing) == left:
        progress.waits(left)
        interruption.wait(POLL)
  return records


def _made(make, jobs: Sequence, workers: int, progress: Progress) -> Iterator[tuple]:
  """The number of each job with its record, in the order in which they end."""
  if workers > 1:
    yield from side_by_side(functools.partial(make, report=_unheard), jobs, workers)
    return
  for i, job in enumerate(jobs):
    interruption.check()
    progress.begins(job[0].label)
    yield i, make(job, report=progress.report)


def _make(job: tuple[Cell, dict | None], store: Store, execute, report) -> dict | None:
  """A cell's record, made and stored under a lease; None while another launch has the lease.

  Args:
    job: the cell, and the record that is to be replaced, if there is one.
    store: where the record goes.
    execute: as for `launch`.
    report: as for `execute`.

  """
  cell, before = job
  with lease.held(_lease_of(cell, store)) as mine:
    if not mine:
      return None
    record = store.read(cell.study, cell.run)
    if record is not None and record != before:  # another launch made it in the meantime
      return record
    return store.write(_record(cell, execute, report))


def _lease_of(cell: Cell, store: Store) -> pathlib.Path:
  return store.cells / f'{cell.study}-{key_of(cell.study, cell.run)}{lease.SUFFIX}'


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
