"""Names of records that people can read: study/layer/task/key.

  retention/lstm/recall-length-32-num-pairs-4-vocabulary-size-64/3f2a9c1b

The key is the beginning of the record's file name, so that no two records have one name. A name
may be cut after any of its parts: it then means all records below it.
"""

from collections.abc import Iterable, Sequence

from experiments.lab.errors import BadInput, no_such
from experiments.lab.results.escape import slug
from experiments.lab.results.store import key_of

KEY = 8  # hex digits
FEW = 3  # layers that are all named
MOST = 20  # names that an error lists


def of_record(record: dict) -> str:
  """The name of a record."""
  key = key_of(record['study'], record['run'], record['code'])
  parts = (subject(record['run']), circumstances(record['run']))
  return '/'.join((record['study'], *(slug(part) for part in parts if part), key[:KEY]))


def subject(run: dict) -> str:
  """Whose numbers a run's are: its layer, its layers, or what it compares."""
  layers = run.get('layers', ())  # which the schema of all records has as texts
  several = '-'.join(layers) if len(layers) <= FEW else f'{len(layers)} layers'
  return str(run.get('layer') or run.get('what') or several)


def circumstances(run: dict) -> str:
  """What tells a run from others of the same layers: its task, or where and at what it was made."""
  said = [f'{run[name]}' for name in ('task', 'at', 'platform', 'topology') if name in run]
  if 'task' not in run:
    said += [f'{name} {run[name]}' for name in ('block', 'depth', 'length', 'seed') if name in run]
  sizes = run.get('sizes')
  if isinstance(sizes, dict):
    said += [f'{name} {size}' for name, size in sizes.items()]
  return ' '.join(said)


def matching(records: Iterable[dict], wanted: Sequence[str]) -> list[dict]:
  """The records of these names, or below them; all, if there are none. A BadInput for others."""
  named = [(of_record(record), record) for record in records]
  for one in wanted:
    if not any(below(name, one) for name, _ in named):
      if not named:
        raise BadInput(f'there is no record {one!r}, nor any other')
      parts = one.strip('/').count('/') + 1
      known = sorted({'/'.join(name.split('/')[:parts]) for name, _ in named})
      raise no_such('record', one, known[:MOST])
  return [record for name, record in named
          if not wanted or any(below(name, one) for one in wanted)]


def below(name: str, wanted: str) -> bool:
  """Whether a name is another, or begins with all of its parts."""
  wanted = wanted.strip('/')
  return name == wanted or name.startswith(f'{wanted}/')
