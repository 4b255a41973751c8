"""Schema common to all experiment records, and selection of the schema for each kind of record.

A study lists the kinds of its records (`Study.kinds`), which are distinguished by a setting of
their runs. A study without kinds may store any run and any result.
"""

from collections.abc import Mapping, Sequence

from experiments.lab.results.schema import (
  STATUSES,
  Choice,
  Fields,
  Integer,
  ListOf,
  MapOf,
  Number,
  RecordKind,
  SchemaError,
  Text,
)

# Optional settings of a run that the report and the claims use if they are present.
SHARED_SETTINGS = {
  'layer': Text(), 'layers': ListOf(Text()), 'seed': Integer(),
  'seeds': ListOf(Integer(), 1, distinct=True),
}
RECORD = Fields({
  'study': Text('[A-Za-z0-9_]+'),
  'run': Fields({}, SHARED_SETTINGS),
  'status': Choice(STATUSES),
  'reason': Text(),
  'result': Fields({}),
  'seconds': Number(0),
  'device': Text(),
  'versions': MapOf(Text(), min_size=1),
  'commit': Text(),
  'code': MapOf(Text('[0-9a-f]+')),
})


def find_record_kind(
  study: str, run: dict, kinds: Mapping[str, Sequence[RecordKind]]
) -> RecordKind | None:
  """Returns the kind of record that a grid cell with the given run settings produces.

  The names of the settings determine the kind.

  Args:
    study: The name of the study.
    run: The settings of the grid cell.
    kinds: The kinds of records of each study.

  Returns:
    The kind, or None for a study without kinds.

  Raises:
    SchemaError: No kind matches the run, or several kinds match.
  """
  kinds_of_study = kinds.get(study, ())
  if not kinds_of_study:
    return None
  matching = [kind for kind in kinds_of_study if kind.identifying_setting in run]
  if len(matching) != 1:
    settings = ', '.join(kind.identifying_setting for kind in kinds_of_study)
    raise SchemaError(f'run: a cell of {study} must have exactly one of the settings {settings}')
  return matching[0]


def check_record(record: dict, kinds: Mapping[str, Sequence[RecordKind]]) -> None:
  """Raises a SchemaError if the record does not satisfy the schema of its kind of record."""
  kind = find_record_kind(record['study'], record['run'], kinds)
  if kind:
    kind.check(record)
