"""The records of a folder that tables and claims rest on, and notes on what they leave out."""

import collections
import pathlib

from experiments.claims.stated import LOADED
from experiments.lab.errors import BadInput
from experiments.lab.results import notes
from experiments.lab.results.store import Store, broken_link

# What decides the budget of a run besides its reference.
SIZES = ('task', 'width', 'depth', 'feedforward', 'expansion', 'block')
KINDS = {name: study.kinds for name, study in LOADED.items()}


def stored(folder: pathlib.Path) -> tuple[list[dict], list[notes.Note]]:
  """The current records of a folder, and what is to be said of others; a BadInput without any."""
  store = Store(folder, KINDS)
  everything = store.everything()
  current = [record for record in everything if store.is_current(record)]
  if not current:
    why = broken_link(folder) or f'no results in {folder}'
    if everything:
      why = f'all {len(everything)} records in {folder} are of other code than today\'s'
    first = everything[0]['study'] if everything else 'retention'
    raise BadInput(f'{why}: run a study first, such as '
                   f'{notes.command(first, folder, "--preset=quick")}')
  left_out = [*stale(store, everything, folder), *unlisted(current, folder)]
  return current, [*left_out, *unequal(current, folder)]


def stale(store: Store, everything: list[dict], folder: pathlib.Path) -> list[notes.Note]:
  """A note on each study of which records are left out, because other code made them.

  A cell that today's code has made as well is not missed.
  """
  made = [(record['study'], record['run']) for record in everything if store.is_current(record)]
  missed = collections.Counter(
    record['study'] for record in everything
    if not store.is_current(record) and (record['study'], record['run']) not in made)
  return [
    notes.Note(
      f'{count} records of {study} were made by other code than today\'s, and are not shown. Run '
      'the study again, with the other flags that it had', notes.command(study, folder))
    for study, count in missed.items()
  ]


def unequal(records: list[dict], folder: pathlib.Path) -> list[notes.Note]:
  """A note on each study whose runs of the same sizes were matched to different budgets.

  The budget is that of the reference, whose code is no part of other layers' records: where its
  parameters have changed, records from before and after do not compare.
  """
  budgets: dict[tuple, set] = {}
  for record in records:
    if record['run'].get('match') == 'params' and record['result'].get('budget'):
      sizes = record['study'], *(str(record['run'].get(name)) for name in SIZES)
      budgets.setdefault(sizes, set()).add(record['result']['budget'])
  several = {key[0]: found for key, found in budgets.items() if len(found) > 1}
  return [
    notes.Note(
      f'Records of {study} at the same sizes have different budgets of parameters, '
      f'{" and ".join(map(str, sorted(found)))}: the reference has changed in between. Run the '
      'study again, with the other flags that it had', notes.command(study, folder))
    for study, found in several.items()
  ]


def unlisted(records: list[dict], folder: pathlib.Path) -> list[notes.Note]:
  """A note on each study that has records and is not in STUDIES."""
  counts = collections.Counter(
    record['study'] for record in records if record['study'] not in LOADED)
  return [
    notes.Note(
      f'{count} records are of {study}, which is not in STUDIES of experiments/__init__.py: they '
      'are in no table and no claim here', notes.command('runs', folder, 'list', study))
    for study, count in counts.items()
  ]
