"""What differs between the records of two folders: cells, numbers, and the code that made them."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.lab.results import notation, notes, scores
from experiments.lab.results.statistics import mean_interval
from experiments.lab.results.store import canonical
from experiments.runs import names

# What no two runs have in common; times are measured anew each time.
OF_TIME = ('seconds', 'peak')


def lines(first: Sequence[dict], second: Sequence[dict]) -> Iterator[str]:
  """A line for each cell that only one folder has, or whose numbers or code differ.

  Of a cell that several versions of the code made, the last record counts. Times are not compared.
  """
  groups, equal = (by_cell(first), by_cell(second)), 0
  for cell in sorted(groups[0].keys() | groups[1].keys()):
    one, other = (group.get(cell) for group in groups)
    if said := difference(one, other):
      yield f'{names.of_record(one or other).rpartition("/")[0]}: {said}'
    else:
      equal += 1
  yield f'equal in numbers and in code: {equal} cells; times are not compared'


def by_cell(records: Sequence[dict]) -> dict[str, dict]:
  """Study and run -> the record, the last of several."""
  return {canonical([record['study'], record['run']]): record for record in records}


def difference(one: dict | None, other: dict | None) -> str:
  """What is to be said of a cell of two folders; '': nothing."""
  if one is None or other is None:
    return f'only in the {"first" if other is None else "second"}'
  values = [path for path, a, b in leaves(one['result'], other['result']) if not same(a, b)]
  modules = sorted(name for name in one['code'].keys() | other['code'].keys()
                   if one['code'].get(name) != other['code'].get(name))
  if not values and not modules and one['status'] == other['status']:
    return ''
  said = [f'{one["status"]}, then {other["status"]}'] if one['status'] != other['status'] else []
  if values:
    said.append(f'{len(values)} values differ{between(one, other)}')
  else:
    said.append('the same numbers')
  if modules and one['code'] and other['code']:
    said.append(f'other code: {", ".join(modules)}')
  elif modules:
    said.append('the code of one is not known')
  return '; '.join(said)


def between(one: dict, other: dict) -> str:
  """The test metrics of both records, if they have any."""
  if (scored := (score(one), score(other))) and None in scored:
    return ''
  first, second = map(notation.cell, scored)
  return f', test metric {first}, then {second}'


def leaves(one: Any, other: Any, path: str = '') -> Iterator[tuple[str, Any, Any]]:
  """The values of two results that stand in one place: the place, and both; None: there is none."""
  if path.rpartition('.')[2] in OF_TIME:
    return
  if isinstance(one, dict) and isinstance(other, dict):
    for name in {**one, **other}:
      yield from leaves(one.get(name), other.get(name), f'{path}.{name}')
  elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
    for i, (a, b) in enumerate(zip(one, other, strict=True)):
      yield from leaves(a, b, f'{path}[{i}]')
  else:
    yield path, one, other


def same(one: Any, other: Any) -> bool:
  """Whether two values are equal, NaN being equal to itself."""
  both = isinstance(one, float) and isinstance(other, float)
  return one == other or (both and math.isnan(one) and math.isnan(other))


def score(record: dict | None):
  """The test metric of a trained cell, its mean over seeds; None where there is none.

  A record of other code, or of a study that is not listed, may have results of any form.
  """
  value, _ = notes.attempt(lambda: mean_interval(scores.metrics(record)))
  return value
