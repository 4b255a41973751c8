"""Looks after folders of results: what is in them, what is stale, what differs, what may go.

  python -m experiments.runs list                     all cells of --runs, a line each
  python -m experiments.runs list retention/lstm      those below a name
  python -m experiments.runs show NAME                all that a record says of itself
  python -m experiments.runs rm NAME                  removes records; with --stale, only stale ones
  python -m experiments.runs diff FOLDER OTHER        cells of two folders that differ
  python -m experiments.runs merge FOLDER             copies into --runs what it lacks

A record is current if today's code would make its numbers; else it is stale, and neither tables nor
claims show it. What was replaced is kept in the folder `history`.
"""

import json
import pathlib
from collections.abc import Sequence

from absl import flags as absl_flags

from experiments.claims.stored import KINDS
from experiments.lab import atomic
from experiments.lab.errors import BadInput, no_such
from experiments.lab.launch import flags
from experiments.lab.results import notation
from experiments.lab.results.store import Store
from experiments.runs import differences, names

LONG = 200  # characters of a value that is shown


def define() -> None:
  """The command's flags."""
  flags.define_store()
  absl_flags.DEFINE_boolean('stale', False, 'Of `list` and `rm`: stale records alone.')


def opened(folder: str) -> Store:
  """The store of a folder; a BadInput where there is none."""
  if not pathlib.Path(folder).is_dir():
    raise BadInput(f'no folder {folder}')
  return Store(folder, KINDS)


def chosen(store: Store, wanted: Sequence[str]) -> list[dict]:
  """The records of these names; with --stale, those of other code."""
  records = names.matching(store.everything(), wanted)
  return [r for r in records if not (flags.FLAGS.stale and store.is_current(r))]


def show_list(*wanted: str) -> None:
  """Prints a line for each record."""
  store = opened(flags.FLAGS.runs)
  records = chosen(store, wanted)
  labels = [names.of_record(record) for record in records]
  widest, stale = max(map(len, labels), default=0), 0
  for name, record in zip(labels, records, strict=True):
    current = store.is_current(record)
    stale += not current
    metric = differences.score(record)
    print(f'{name:{widest}}  {record["status"]:13}  {"current" if current else "stale":7}  '
          f'{notation.cell(metric):>14}  {record["seconds"]:8.1f} s')
  print(f'{len(records)} records, {stale} of them stale, in {flags.FLAGS.runs}')


def show_record(*wanted: str) -> None:
  """Prints what each of these records says of itself."""
  if not wanted:
    raise BadInput('show takes the name of a record, or the beginning of one; see `list`')
  store = opened(flags.FLAGS.runs)
  for record in names.matching(store.everything(), wanted):
    print(names.of_record(record))
    for name in ('status', 'reason', 'seconds', 'device', 'commit', 'versions'):
      print(f'  {name}: {short(record[name])}')
    print(f'  file: {store.path_of(record)}')
    changed = ', '.join(store.changed(record))
    if changed and not record['code']:
      changed = 'made before records knew their code'
    print(f'  code: {"stale: " + changed if changed else "current"}')
    for part in ('run', 'result'):
      for name, value in record[part].items():
        print(f'  {part}.{name}: {short(value)}')
    if (score := differences.score(record)) is not None:
      print(f'  test metric: {notation.cell(score)}')


def short(value) -> str:
  """A JSON value in one line, cut where it is long."""
  text = value if isinstance(value, str) else json.dumps(value)
  return text if len(text) <= LONG else f'{text[:LONG]} ... ({len(text)} characters)'


def remove(*wanted: str) -> None:
  """Removes the records of these names."""
  if not wanted and not flags.FLAGS.stale:
    raise BadInput('rm takes the name of a record, or the beginning of one; or --stale for all '
                   'that are stale')
  store = opened(flags.FLAGS.runs)
  records = chosen(store, wanted)
  for record in records:
    store.path_of(record).unlink(missing_ok=True)
    print(f'removed {names.of_record(record)}')
  print(f'{len(records)} records removed')


def show_differences(*folders: str) -> None:
  """Prints what differs between two folders."""
  if len(folders) != 2:
    raise BadInput(f'diff takes two folders, not {len(folders)}')
  stores = [opened(folder) for folder in folders]
  # The current record of a cell comes last, and so is the one that is compared.
  records = [sorted(store.everything(), key=store.is_current) for store in stores]
  for line in differences.lines(*records):
    print(line)


def merge(*folders: str) -> None:
  """Copies into --runs the records of other folders that it lacks; nothing in it is replaced."""
  if not folders:
    raise BadInput('merge takes the folders whose records --runs is to have as well')
  sources = [opened(folder) for folder in folders]
  into = Store(flags.FLAGS.runs, KINDS).prepare(replacing=True)
  into.everything()  # which sets damaged files aside, so that sound ones take their places
  for folder, source in zip(folders, sources, strict=True):
    counts = {'copied': 0, 'already there': 0, 'kept as history': 0}
    for record in source.everything():
      data, place = source.path_of(record).read_bytes(), into.path_of(record)
      if not place.exists():
        atomic.write(place, data)
        counts['copied'] += 1
      elif place.read_bytes() == data:
        counts['already there'] += 1
      else:
        into.keep_history(place.name, data)
        counts['kept as history'] += 1
    said = ', '.join(f'{count} {what}' for what, count in counts.items())
    print(f'{folder}: {said}')


ACTIONS = {
  'list': show_list, 'show': show_record, 'rm': remove, 'diff': show_differences, 'merge': merge,
}


def main(action: str = 'list', *words: str) -> None:
  """Does what the first word says with the others."""
  if action not in ACTIONS:
    raise no_such('action', action, ACTIONS)
  if flags.given('stale') and action not in ('list', 'rm'):
    raise BadInput(f'--stale means nothing to {action}: it is of list and rm')
  if flags.given('runs') and action == 'diff':
    raise BadInput('--runs means nothing to diff: it takes two folders')
  ACTIONS[action](*words)


if __name__ == '__main__':
  flags.main(main, define, __doc__, takes_words=True)
