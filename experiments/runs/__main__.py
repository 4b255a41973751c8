"""Manages the records in folders of results.

  python -m experiments.runs list                     lists all records of --runs, one per line
  python -m experiments.runs list retention/lstm      lists the records with this name prefix
  python -m experiments.runs show NAME                prints all fields of a record
  python -m experiments.runs rm NAME                  removes records; with --stale, only stale ones
  python -m experiments.runs diff FOLDER OTHER        prints the cells in which two folders differ
  python -m experiments.runs merge FOLDER             copies the records that --runs lacks

A record is current if the present code is the code that computed its numbers. Otherwise it is
stale, and is omitted from tables and claims. Records that were replaced are kept in the folder
`history`.
"""

import json
import pathlib
from collections.abc import Sequence

from absl import flags as absl_flags

from experiments.claims.current_records import KINDS
from experiments.lab import atomic
from experiments.lab.errors import BadInput, unknown_name_error
from experiments.lab.launch import flags
from experiments.lab.results import notation
from experiments.lab.results.store import Store
from experiments.runs import differences, names

MAX_VALUE_CHARACTERS = 200  # of a value in the output of `show`


def define_flags() -> None:
  flags.define_runs_flag()
  absl_flags.DEFINE_boolean('stale', False, 'Restrict `list` and `rm` to stale records.')


def open_store(folder: str) -> Store:
  """Opens the store in a folder, or raises BadInput if the folder does not exist."""
  if not pathlib.Path(folder).is_dir():
    raise BadInput(f'the folder {folder} does not exist')
  return Store(folder, KINDS)


def selected_records(store: Store, prefixes: Sequence[str]) -> list[dict]:
  """Returns records whose names begin with a prefix, and only stale records if --stale is set."""
  records = names.matching_records(store.all_records(), prefixes)
  return [r for r in records if not (flags.FLAGS.stale and store.is_current(r))]


def list_records(*prefixes: str) -> None:
  """Prints one line per selected record."""
  store = open_store(flags.FLAGS.runs)
  records = selected_records(store, prefixes)
  labels = [names.record_name(record) for record in records]
  name_width, num_stale = max(map(len, labels), default=0), 0
  for name, record in zip(labels, records, strict=True):
    current = store.is_current(record)
    num_stale += not current
    metric = differences.mean_test_metric(record)
    print(f'{name:{name_width}}  {record["status"]:13}  {"current" if current else "stale":7}  '
          f'{notation.format_table_cell(metric):>14}  {record["seconds"]:8.1f} s')
  print(f'{len(records)} records, {num_stale} of them stale, in {flags.FLAGS.runs}')


def show_record(*prefixes: str) -> None:
  """Prints the fields of every record that has a name beginning with one of the prefixes."""
  if not prefixes:
    raise BadInput('show takes the name of a record or the beginning of a name; see `list`')
  store = open_store(flags.FLAGS.runs)
  for record in names.matching_records(store.all_records(), prefixes):
    print(names.record_name(record))
    for name in ('status', 'reason', 'seconds', 'device', 'commit', 'versions'):
      print(f'  {name}: {shorten_value(record[name])}')
    print(f'  file: {store.record_path(record)}')
    changed = ', '.join(store.changed_modules(record))
    if changed and not record['code']:
      changed = 'made before records contained fingerprints of their code'
    print(f'  code: {"stale: " + changed if changed else "current"}')
    for part in ('run', 'result'):
      for name, value in record[part].items():
        print(f'  {part}.{name}: {shorten_value(value)}')
    if (metric := differences.mean_test_metric(record)) is not None:
      print(f'  test metric: {notation.format_table_cell(metric)}')


def shorten_value(value) -> str:
  """Formats a JSON value in one line, and truncates a long value."""
  text = value if isinstance(value, str) else json.dumps(value)
  if len(text) <= MAX_VALUE_CHARACTERS:
    return text
  return f'{text[:MAX_VALUE_CHARACTERS]} ... ({len(text)} characters)'


def remove_records(*prefixes: str) -> None:
  """Removes the selected records."""
  if not prefixes and not flags.FLAGS.stale:
    raise BadInput('rm takes the name of a record or the beginning of a name, or --stale for all '
                   'stale records')
  store = open_store(flags.FLAGS.runs)
  records = selected_records(store, prefixes)
  for record in records:
    store.record_path(record).unlink(missing_ok=True)
    print(f'removed {names.record_name(record)}')
  print(f'{len(records)} records removed')


def print_record_differences(*folders: str) -> None:
  """Prints the grid cells whose records differ between two folders."""
  if len(folders) != 2:
    raise BadInput(f'diff takes two folders, not {len(folders)}')
  stores = [open_store(folder) for folder in folders]
  # Records of the current code come last, because only the last record of a grid cell is compared.
  records = [sorted(store.all_records(), key=store.is_current) for store in stores]
  for line in differences.describe_differing_grid_cells(*records):
    print(line)


def merge_folders(*folders: str) -> None:
  """Copies records from other folders to the folder --runs without replacing any record."""
  if not folders:
    raise BadInput('merge takes the folders whose records are to be copied into --runs')
  sources = [open_store(folder) for folder in folders]
  target = Store(flags.FLAGS.runs, KINDS).create_writable_folders(include_record_history=True)
  target.all_records()  # moves damaged files away, so that intact copies can replace them
  for folder, source in zip(folders, sources, strict=True):
    counts = {'copied': 0, 'already stored': 0, 'added to history': 0}
    for record in source.all_records():
      data, path = source.record_path(record).read_bytes(), target.record_path(record)
      if not path.exists():
        atomic.write(path, data)
        counts['copied'] += 1
      elif path.read_bytes() == data:
        counts['already stored'] += 1
      else:
        target.copy_record_to_history_folder(path.name, data)
        counts['added to history'] += 1
    summary = ', '.join(f'{count} {action}' for action, count in counts.items())
    print(f'{folder}: {summary}')


ACTIONS = {
  'list': list_records, 'show': show_record, 'rm': remove_records, 'diff': print_record_differences,
  'merge': merge_folders,
}


def main(action: str = 'list', *arguments: str) -> None:
  """Runs an action, such as list or diff, with record names or folders as its arguments."""
  if action not in ACTIONS:
    raise unknown_name_error('action', action, ACTIONS)
  if flags.flag_was_set('stale') and action not in ('list', 'rm'):
    raise BadInput(f'--stale applies to list and rm, not to {action}')
  if flags.flag_was_set('runs') and action == 'diff':
    raise BadInput('--runs does not apply to diff, which takes two folders')
  ACTIONS[action](*arguments)


if __name__ == '__main__':
  flags.run_command_line(main, define_flags, __doc__, takes_arguments=True)
