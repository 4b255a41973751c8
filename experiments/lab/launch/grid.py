"""Execution of the grid cells that have no stored record, and storage of their records."""

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
from experiments.lab.cells.cell import OUT_OF_MEMORY, Cell, Outcome
from experiments.lab.errors import BadInput, unknown_name_error
from experiments.lab.launch import flags, lease
from experiments.lab.launch.progress import Progress
from experiments.lab.launch.study import Study
from experiments.lab.launch.workers import map_in_processes
from experiments.lab.results import times
from experiments.lab.results.store import Store, canonical_json

MAX_NAMED_MODULES = 4  # changed modules that a message names
POLL_SECONDS = 1.0  # between two checks of cells that other processes are executing
Execute = Callable[[Cell, Callable[[float, str], None]], Outcome]


class Job(NamedTuple):
  """A set of grid cells, the function that runs each cell, and the number of processes."""

  cells: Sequence[Cell]
  execute: Execute
  workers: int = 1


def study_records(study: Study, preset: Any) -> list[dict]:
  """Executes requested grid cells that have no stored record, and returns all requested records."""
  values = flags.FLAGS
  cache = values.cache if study.caches else ''
  environment.configure_jax(values.host_devices or study.devices, cache)
  store = Store(values.runs, {study.name: study.kinds})
  jobs = importlib.import_module(study.cells).jobs(study, preset)
  needs_rerun = parse_rerun_flag(values.rerun, [cell for job in jobs for cell in job.cells])
  return [
    record for job in jobs
    for record in run_grid_cells(
      job.cells, job.execute, store, values.retry, job.workers, needs_rerun)
  ]


def parse_rerun_flag(flag_value: str | None, cells: Sequence[Cell]) -> Callable[[Cell], bool]:
  """Returns a function that decides whether the flag --rerun selects a grid cell.

  Raises:
    BadInput: if a name in the value of --rerun belongs to none of the cells.

  """
  if flag_value is None:
    return lambda cell: False
  known = {name for cell in cells for name in names_accepted_by_rerun_flag(cell)}
  requested = spec.split_specs(flag_value)
  for name in requested:
    if name not in known:
      raise unknown_name_error('layer, task or benchmark of this study named', name, sorted(known))
  return lambda cell: bool(names_accepted_by_rerun_flag(cell) & set(requested))


def names_accepted_by_rerun_flag(cell: Cell) -> set[str]:
  """Returns the names by which --rerun can select a grid cell, such as its layers and its task.

  They are the specs in the settings of the cell, with and without their options.
  """
  specs = set()
  for setting in source.SPEC_SETTINGS:
    value = cell.run.get(setting, ())
    specs |= {value} if isinstance(value, str) else set(value)
  return specs | {text.partition('(')[0] for text in specs}


def run_grid_cells(
  cells: Iterable[Cell],
  execute: Execute,
  store: Store,
  retry: bool = False,
  workers: int = 1,
  needs_rerun: Callable[[Cell], bool] = lambda cell: False,
) -> list[dict]:
  """Executes the grid cells that have no stored record.

  A cell that another process is executing is skipped, and its record is awaited at the end.

  Args:
    cells: the cells of the grid.
    execute: function that executes a cell. Its arguments are the cell and a progress callback,
      which takes the completed fraction and a short text.
    store: the store of records.
    retry: whether to execute stored cells again that did not finish, or whose repeated times
      differ too much.
    workers: number of processes that execute cells in parallel; each imports `execute`.
    needs_rerun: predicate of the stored cells to execute again.

  Returns:
    The records of all cells, in their order.

  """
  cells = [
    dataclasses.replace(
      cell, code=store.code_fingerprints_of_grid_cell(cell.study, cell.run),
      rerun=needs_rerun(cell))
    for cell in cells
  ]
  records = [store.read(cell.study, cell.run) for cell in cells]
  missing = [
    i for i, (cell, record) in enumerate(zip(cells, records, strict=True))
    if not cell.accepts_record(record) or cell.rerun
    or (retry and not times.is_finished_with_consistent_timings(record))
  ]
  if not missing:  # the store is left untouched, as its folder may not be writable
    return records
  store.create_writable_folders(include_record_history=any(records[i] is not None for i in missing))
  if note := describe_stale_grid_cells(store, [cells[i] for i in missing]):
    print(note, file=sys.stderr, flush=True)
  previous = {i: records[i] for i in missing}
  with Progress(len(cells), len(missing)) as progress:
    while missing:
      free = [i for i in missing if lease.is_free(_lease_path(cells[i], store))]
      num_missing = len(missing)
      run_grid_cell = functools.partial(_run_grid_cell, store=store, execute=execute)
      jobs = [(cells[i], previous[i]) for i in free]
      for number, record in _run_jobs(run_grid_cell, jobs, min(workers, len(jobs)), progress):
        if record is not None:
          i = free[number]
          records[i] = record
          missing.remove(i)
          progress.finish_grid_cell(cells[i].label, record)
      if len(missing) == num_missing:
        progress.show_waiting_for_other_processes(num_missing)
        interruption.sleep_unless_interrupted(POLL_SECONDS)
  return records


def describe_stale_grid_cells(store: Store, cells: Sequence[Cell]) -> str:
  """Reports how many records come from a different code version, and which modules changed.

  The result is '' if no record comes from a different version.
  """
  current_code = {canonical_json(cell.run): cell.code for cell in cells if cell.code}
  stale = [
    record for study in {cell.study for cell in cells} for record in store.all_records(study)
    if current_code.get(canonical_json(record['run']), record['code']) != record['code']]
  if not stale:
    return ''
  count = len({canonical_json(record['run']) for record in stale})
  changed = sorted({module for record in stale for module in store.changed_modules(record)})
  omitted = len(changed) - MAX_NAMED_MODULES
  more = f' and {omitted} more' if omitted > 0 else ''
  return (f'{count} cells stored by different code are executed again; changed modules: '
          f'{", ".join(changed[:MAX_NAMED_MODULES])}{more}')


def _run_jobs(run_grid_cell, jobs: Sequence, workers: int, progress: Progress) -> Iterator[tuple]:
  """Executes jobs, and yields the index and the record of each job in order of completion."""
  if workers > 1:
    run_silently = functools.partial(run_grid_cell, report_progress=_ignore_progress)
    yield from map_in_processes(run_silently, jobs, workers)
    return
  for i, job in enumerate(jobs):
    interruption.raise_if_stopped()
    progress.start_grid_cell(job[0].label)
    yield i, run_grid_cell(job, report_progress=progress.report_progress)


def _run_grid_cell(
    job: tuple[Cell, dict | None], store: Store, execute, report_progress) -> dict | None:
  """Executes a grid cell and stores its record, or returns None if another process executes it.

  Args:
    job: the cell, and the stored record that is to be replaced, if any.
    store: the store of the record.
    execute: function that executes the cell, as for `run_grid_cells`.
    report_progress: progress callback, as for `execute`.

  """
  cell, previous = job
  with lease.hold_lease(_lease_path(cell, store)) as acquired:
    if not acquired:
      return None
    # The code may have been edited between its import by the main process and by a worker.
    if store.code_fingerprints_of_grid_cell(cell.study, cell.run) != cell.code:
      raise BadInput('the code was edited while this command ran; stored results are kept, and '
                     'the same command resumes with the edited code')
    record = store.read(cell.study, cell.run)
    if record is not None and record != previous:  # another process executed the cell meanwhile
      return record
    return store.write(_execute_grid_cell(cell, execute, report_progress))


def _lease_path(cell: Cell, store: Store) -> pathlib.Path:
  return store.cells / f'{cell.study}-{cell.record_key}{lease.SUFFIX}'


def _ignore_progress(fraction: float, text: str) -> None:
  """Ignores progress, since worker processes show no progress bar."""


def _execute_grid_cell(cell: Cell, execute, report_progress) -> dict[str, Any]:
  """Executes a grid cell and returns its record, even if the execution runs out of memory."""
  start = time.perf_counter()
  try:
    outcome = execute(cell, report_progress)
  except (jax.errors.JaxRuntimeError, MemoryError) as error:
    if not (isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error))):
      raise
    outcome = Outcome({}, 'out of memory', str(error).partition('\n')[0])
  return {
    'study': cell.study,
    'run': cell.run,
    'code': dict(cell.code),
    **dataclasses.asdict(outcome),
    'seconds': time.perf_counter() - start,
    'device': environment.device_name(),
    'versions': environment.package_versions(),
    'commit': environment.git_commit(),
  }
