"""A grid of cells: what is stored is skipped, what runs is stored, whatever becomes of it."""

import dataclasses
import functools
import importlib
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax

from experiments.lab import interruption, source
from experiments.lab.cells import environment, spec
from experiments.lab.cells.cell import EXHAUSTED, Cell, Outcome
from experiments.lab.errors import BadInput, no_such
from experiments.lab.launch import flags, lease
from experiments.lab.launch.progress import Progress
from experiments.lab.launch.study import Study
from experiments.lab.launch.workers import side_by_side
from experiments.lab.results import times
from experiments.lab.results.store import Store, canonical

NAMED = 4  # modules that are named of those that have changed
POLL = 1.0  # seconds between looks at the cells that other launches are making
Execute = Callable[[Cell, Callable[[float, str], None]], Outcome]


class Job(NamedTuple):
  """Cells of one kind, what executes one of them, and how many run side by side."""

  cells: Sequence[Cell]
  execute: Execute
  workers: int = 1


def records(study: Study, preset: Any) -> list[dict]:
  """The records of all cells of a study that the flags ask for; those that are missing are made."""
  given = flags.FLAGS
  cache = given.cache if study.caches else ''
  environment.prepare(given.host_devices or study.devices, cache)
  store = Store(given.runs, {study.name: study.kinds})
  jobs = importlib.import_module(study.cells).jobs(study, preset)
  again = wanted_again(given.rerun, [cell for job in jobs for cell in job.cells])
  return [
    record for job in jobs
    for record in launch(job.cells, job.execute, store, given.retry, job.workers, again)
  ]


def wanted_again(text: str | None, cells: Sequence[Cell]) -> Callable[[Cell], bool]:
  """Which cells --rerun names, by a layer, a task or a comparison; a BadInput if it names none."""
  if text is None:
    return lambda cell: False
  named = {name for cell in cells for name in names_of(cell)}
  wanted = spec.split(text)
  for one in wanted:
    if one not in named:
      raise no_such('cell of this study with', one, sorted(named))
  return lambda cell: bool(names_of(cell) & set(wanted))


def names_of(cell: Cell) -> set[str]:
  """What a cell's layers, task or comparison are called: as they are written, and in short."""
  names = set()
  for setting in source.NAMED:
    value = cell.run.get(setting, ())
    names |= {value} if isinstance(value, str) else set(value)
  return names | {text.partition('(')[0] for text in names}


def launch(
  cells: Iterable[Cell],
  execute: Execute,
  store: Store,
  retry: bool = False,
  workers: int = 1,
  again: Callable[[Cell], bool] = lambda cell: False,
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
    again: which cells run again although they are stored.

  """
  cells = [
    dataclasses.replace(cell, code=store.code(cell.study, cell.run), anew=again(cell))
    for cell in cells
  ]
  records = [store.read(cell.study, cell.run) for cell in cells]
  missing = [
    i for i, (cell, record) in enumerate(zip(cells, records, strict=True))
    if not cell.answered_by(record) or cell.anew or (retry and not times.settled(record))
  ]
  if not missing:  # and the folder may be one that cannot be written to
    return records
  store.prepare(replacing=any(records[i] is not None for i in missing))
  if note := stale(store, [cells[i] for i in missing]):
    print(note, file=sys.stderr, flush=True)
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


def stale(store: Store, cells: Sequence[Cell]) -> str:
  """A line on the cells that are stored by other code, and what has changed since; '': none is."""
  now = {canonical(cell.run): cell.code for cell in cells if cell.code}
  then = [record for study in {cell.study for cell in cells} for record in store.everything(study)
          if now.get(canonical(record['run']), record['code']) != record['code']]
  if not then:
    return ''
  count = len({canonical(record['run']) for record in then})
  changed = {module for record in then for module in store.changed(record)}
  named = sorted(changed)[:NAMED]
  more = f' and {len(changed) - NAMED} more' if len(changed) > NAMED else ''
  return (f'{count} cells are stored by other code, and run again: '
          f'{", ".join(named)}{more} changed since')


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
    if store.code(cell.study, cell.run) != cell.code:  # of a worker, which has just loaded it
      raise BadInput('the code was edited while this launch ran: what was stored is kept, and the '
                     'same command goes on with the code as it is now')
    record = store.read(cell.study, cell.run)
    if record is not None and record != before:  # another launch made it in the meantime
      return record
    return store.write(_record(cell, execute, report))


def _lease_of(cell: Cell, store: Store) -> pathlib.Path:
  return store.cells / f'{cell.study}-{cell.key}{lease.SUFFIX}'


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
    'code': dict(cell.code),
    **dataclasses.asdict(outcome),
    'seconds': time.perf_counter() - start,
    'device': environment.device(),
    'versions': environment.versions(),
    'commit': environment.commit(),
  }
