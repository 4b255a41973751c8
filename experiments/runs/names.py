"""Readable names of records in the format study/layer/task/key.

  retention/lstm/recall-length-32-num-pairs-4-vocabulary-size-64/3f2a9c1b

The key is the beginning of the record's file name, so that no two records have the same name. A
prefix of a name that ends with one of its parts selects all records below it.
"""

from collections.abc import Iterable, Sequence

from experiments.lab.errors import BadInput, unknown_name_error
from experiments.lab.results.escape import to_slug
from experiments.lab.results.store import cell_key

KEY_DIGITS = 8  # hex digits of the key in a name
MAX_LISTED_LAYERS = 3  # a run with more layers is named by their number
MAX_SUGGESTIONS = 20  # names that an error message lists


def record_name(record: dict) -> str:
  """Returns the name of a record in the format study/layer/task/key."""
  key = cell_key(record['study'], record['run'], record['code'])
  run = record['run']
  parts = format_layers_in_record_name(run), format_distinguishing_settings(run)
  return '/'.join((record['study'], *(to_slug(part) for part in parts if part), key[:KEY_DIGITS]))


def format_layers_in_record_name(run: dict) -> str:
  """Formats the second part of a record name, which states the run's layers or its benchmark."""
  layers = run.get('layers', ())  # the schema of all records requires a list of strings here
  several = '-'.join(layers) if len(layers) <= MAX_LISTED_LAYERS else f'{len(layers)} layers'
  return str(run.get('layer') or run.get('benchmark') or several)


def format_distinguishing_settings(run: dict) -> str:
  """Formats the settings that distinguish runs of the same layers, such as task and seed."""
  texts = [f'{run[name]}' for name in ('task', 'at', 'platform', 'topology') if name in run]
  if 'task' not in run:
    texts += [f'{name} {run[name]}' for name in ('block', 'depth', 'length', 'seed') if name in run]
  sizes = run.get('sizes')
  if isinstance(sizes, dict):
    texts += [f'{name} {size}' for name, size in sizes.items()]
  return ' '.join(texts)


def matching_records(records: Iterable[dict], prefixes: Sequence[str]) -> list[dict]:
  """Returns the records whose names begin with a given prefix, or all records if none is given.

  Raises:
    BadInput: if no name begins with one of the prefixes.

  """
  named = [(record_name(record), record) for record in records]
  for prefix in prefixes:
    if not any(has_name_prefix(name, prefix) for name, _ in named):
      if not named:
        raise BadInput(f'there is no record {prefix!r}, because the folder has no records')
      num_parts = prefix.strip('/').count('/') + 1
      known = sorted({'/'.join(name.split('/')[:num_parts]) for name, _ in named})
      raise unknown_name_error('record', prefix, known[:MAX_SUGGESTIONS])
  return [record for name, record in named
          if not prefixes or any(has_name_prefix(name, prefix) for prefix in prefixes)]


def has_name_prefix(name: str, prefix: str) -> bool:
  """Whether a name equals a prefix or continues it after a slash."""
  prefix = prefix.strip('/')
  return name == prefix or name.startswith(f'{prefix}/')
