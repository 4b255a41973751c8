"""The schema of records: what every one has, and what each kind of cell needs besides.

A study says of which kinds its cells are (`Study.kinds`); they are told apart by a setting of their
runs. A study of which nobody says it may store any run and any result.
"""

from collections.abc import Mapping, Sequence

from experiments.lab.results.schema import (
  STATUSES,
  Choice,
  Fields,
  Kind,
  List,
  Misfit,
  Number,
  Table,
  Text,
  Whole,
)

# Settings that the page and the claims read of any run that has them.
SHARED = {
  'layer': Text(), 'layers': List(Text()), 'seed': Whole(),
  'seeds': List(Whole(), 1, distinct=True),
}
RECORD = Fields({
  'study': Text('[A-Za-z0-9_]+'),
  'run': Fields({}, SHARED),
  'status': Choice(STATUSES),
  'reason': Text(),
  'result': Fields({}),
  'seconds': Number(0),
  'device': Text(),
  'versions': Table(Text(), fewest=1),
  'commit': Text(),
  'code': Table(Text('[0-9a-f]+')),
})


def kind_of(study: str, run: dict, kinds: Mapping[str, Sequence[Kind]]) -> Kind | None:
  """The kind of a study's cell, known by its settings; None: nobody says of which kinds they are.

  Raises a Misfit for a run that is of none of them, or of several.
  """
  known = kinds.get(study, ())
  if not known:
    return None
  marked = [kind for kind in known if kind.mark in run]
  if len(marked) != 1:
    marks = ', '.join(kind.mark for kind in known)
    raise Misfit(f'run: a cell of {study} has one of the settings {marks}')
  return marked[0]


def check(record: dict, kinds: Mapping[str, Sequence[Kind]]) -> None:
  """Raise a Misfit for a record that does not have what its kind of cell needs besides."""
  kind = kind_of(record['study'], record['run'], kinds)
  if kind:
    kind.check(record)
