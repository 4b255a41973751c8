"""Differences in grid cells, results and code fingerprints between two folders of records."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.lab.results import notation, notes, scores
from experiments.lab.results.statistics import mean_with_confidence_interval
from experiments.lab.results.store import canonical_json
from experiments.runs import names

# Fields that are not compared, because measured durations vary between executions.
TIME_FIELDS = ('seconds', 'peak')


def describe_differing_grid_cells(
  first_records: Sequence[dict], second_records: Sequence[dict]
) -> Iterator[str]:
  """Yields a line for each grid cell whose records in two folders differ in results or code hashes.

  If several versions of the code computed a cell, its last record is compared. Times are not
  compared.
  """
  folders = latest_record_by_cell(first_records), latest_record_by_cell(second_records)
  num_equal = 0
  for cell in sorted(folders[0].keys() | folders[1].keys()):
    first_record, second_record = (records.get(cell) for records in folders)
    if text := describe_record_difference(first_record, second_record):
      name = names.record_name(first_record or second_record)
      yield f'{name.rpartition("/")[0]}: {text}'
    else:
      num_equal += 1
  yield f'equal in numbers and in code: {num_equal} cells; durations are not compared'


def latest_record_by_cell(records: Sequence[dict]) -> dict[str, dict]:
  """Returns the last record of each grid cell, keyed by the study and the run as JSON text."""
  return {canonical_json([record['study'], record['run']]): record for record in records}


def describe_record_difference(first: dict | None, second: dict | None) -> str:
  """Describes how two records of a grid cell differ, or returns '' if they are equal."""
  if first is None or second is None:
    return f'only in the {"first" if second is None else "second"}'
  values = [path for path, a, b in pair_json_leaves(first['result'], second['result'])
            if not equal_or_both_nan(a, b)]
  modules = sorted(name for name in first['code'].keys() | second['code'].keys()
                   if first['code'].get(name) != second['code'].get(name))
  statuses = first['status'], second['status']
  if not values and not modules and statuses[0] == statuses[1]:
    return ''
  parts = [f'{statuses[0]}, then {statuses[1]}'] if statuses[0] != statuses[1] else []
  if values:
    parts.append(f'{len(values)} values differ{describe_metric_change(first, second)}')
  else:
    parts.append('the same numbers')
  if modules and first['code'] and second['code']:
    parts.append(f'different code: {", ".join(modules)}')
  elif modules:
    parts.append('the code of one record is unknown')
  return '; '.join(parts)


def describe_metric_change(first: dict, second: dict) -> str:
  """Formats the test metrics of two records, or returns '' if a record has no test metric."""
  metrics = mean_test_metric(first), mean_test_metric(second)
  if None in metrics:
    return ''
  first_text, second_text = map(notation.format_table_cell, metrics)
  return f', test metric {first_text}, then {second_text}'


def pair_json_leaves(first: Any, second: Any, path: str = '') -> Iterator[tuple[str, Any, Any]]:
  """Yields the path and the two values of every leaf in a pair of nested JSON values.

  Args:
    first: a JSON value.
    second: a JSON value to compare it with.
    path: path of both values in the enclosing value.

  Yields:
    The path and both values. A value that is missing is None. Times are left out.

  """
  if path.rpartition('.')[2] in TIME_FIELDS:
    return
  if isinstance(first, dict) and isinstance(second, dict):
    for name in {**first, **second}:
      yield from pair_json_leaves(first.get(name), second.get(name), f'{path}.{name}')
  elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
      yield from pair_json_leaves(a, b, f'{path}[{i}]')
  else:
    yield path, first, second


def equal_or_both_nan(first: Any, second: Any) -> bool:
  """Whether two values are equal, where two NaN values count as equal."""
  both_floats = isinstance(first, float) and isinstance(second, float)
  return first == second or (both_floats and math.isnan(first) and math.isnan(second))


def mean_test_metric(record: dict | None):
  """Mean test metric over seeds with its confidence interval, or None without a test metric.

  Records of different code or of unknown studies may have results of any form.
  """
  value, _ = notes.call_or_describe_failure(
    lambda: mean_with_confidence_interval(scores.metrics_on_test_split(record)))
  return value
