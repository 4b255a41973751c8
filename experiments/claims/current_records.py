"""Loads the records of the current code, and describes those that are excluded or inconsistent."""

import collections
import pathlib

from experiments.claims.registry import LOADED_STUDIES
from experiments.lab.errors import BadInput
from experiments.lab.results import notes
from experiments.lab.results.store import Store, describe_broken_link

# These run settings and the reference layer together determine the parameter budget.
SIZES = ('task', 'width', 'depth', 'feedforward', 'expansion', 'block')
KINDS = {name: study.kinds for name, study in LOADED_STUDIES.items()}


def load_records_of_current_code(folder: pathlib.Path) -> tuple[list[dict], list[notes.Note]]:
  """Returns the records that the current code produced, and notes about problematic records.

  Raises:
    BadInput: The folder has no current record.
  """
  store = Store(folder, KINDS)
  all_records = store.all_records()
  current = [record for record in all_records if store.is_current(record)]
  if not current:
    reason = describe_broken_link(folder) or f'no results in {folder}'
    if all_records:
      reason = f'all {len(all_records)} records in {folder} were produced by other code'
    study = all_records[0]['study'] if all_records else 'retention'
    raise BadInput(f'{reason}: run a study first, such as '
                   f'{notes.shell_command(study, folder, "--preset=quick")}')
  return current, [
    *stale_record_notes(store, all_records, folder),
    *notes_on_unknown_studies(current, folder),
    *notes_on_unequal_parameter_budgets(current, folder),
  ]


def stale_record_notes(
  store: Store, all_records: list[dict], folder: pathlib.Path
) -> list[notes.Note]:
  """Returns a note for each study with records that another version of the code produced.

  A stale record does not count if its grid cell also has a current record.

  Args:
    store: The store of the folder.
    all_records: The current and the stale records.
    folder: The folder of results.

  Returns:
    The notes, with the command that runs the study again.
  """
  current = [(record['study'], record['run']) for record in all_records if store.is_current(record)]
  counts = collections.Counter(
    record['study'] for record in all_records
    if not store.is_current(record) and (record['study'], record['run']) not in current)
  return [
    notes.Note(
      f'{count} records of {study} were produced by other code and are excluded. Run the study '
      'again with the flags of its original run', notes.shell_command(study, folder))
    for study, count in counts.items()
  ]


def notes_on_unequal_parameter_budgets(
  records: list[dict], folder: pathlib.Path
) -> list[notes.Note]:
  """Returns a note for each study whose records at equal model sizes differ in parameter budget.

  The budget is the number of parameters of the reference layer, whose code is not part of the
  fingerprint of other layers. After a change of the reference, earlier records of other layers are
  not comparable with later ones.
  """
  budgets: dict[tuple, set] = {}
  for record in records:
    if record['run'].get('match') == 'params' and record['result'].get('budget'):
      sizes = record['study'], *(str(record['run'].get(name)) for name in SIZES)
      budgets.setdefault(sizes, set()).add(record['result']['budget'])
  unequal = {sizes[0]: values for sizes, values in budgets.items() if len(values) > 1}
  return [
    notes.Note(
      f'Records of {study} at equal sizes have the different parameter budgets '
      f'{" and ".join(map(str, sorted(values)))}, because the reference layer has changed. Run the '
      'study again with the flags of its original run', notes.shell_command(study, folder))
    for study, values in unequal.items()
  ]


def notes_on_unknown_studies(records: list[dict], folder: pathlib.Path) -> list[notes.Note]:
  """Returns a note for each study that has records but is not listed in STUDIES."""
  counts = collections.Counter(
    record['study'] for record in records if record['study'] not in LOADED_STUDIES)
  return [
    notes.Note(
      f'{count} records belong to {study}, which is not in STUDIES of experiments/__init__.py, and '
      'are excluded from all tables and claims', notes.shell_command('runs', folder, 'list', study))
    for study, count in counts.items()
  ]
