"""Published results for comparison with the measurements of this repository.

The numbers are stored in published.json, in groups that share a source. Each number has its metric,
the rule by which the reported run was selected, the protocol, the source, and a statement of how
reliably the number was copied. Layers and settings have the names of this repository where it
implements them.
The layer `trivial` stands for the best predictor that ignores the input.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.lab.results.statistics import Interval
from experiments.lab.results.table import Table

RELIABILITIES = {
  'repository': "read from the authors' own repository",
  'second-hand': 'read from a copy or a reprint of the paper',
  'read off a figure': 'approximate',
  'derived': 'computed from the settings',
  'unverified': 'quoted from memory, to be checked before use',
}


@dataclasses.dataclass(frozen=True)
class Entry:
  """A published number with its task, layer, metric, source and reliability.

  `reliability` states how reliably the number was copied, as a key of RELIABILITIES. `relation` is
  '<' where only an upper bound was printed. `note` is a remark on this number.
  """

  task: str
  layer: str
  metric: str
  value: float
  selection: str
  protocol: str
  source: str
  reliability: str
  settings: tuple[tuple[str, Any], ...] = ()
  relation: str = '='
  note: str = ''


def find_published_numbers(
  task: str | None = None, layer: str | None = None, **settings
) -> tuple[Entry, ...]:
  """Returns the published numbers for a task and a layer with the given settings.

  An entry without a setting holds for all values of the setting.

  Args:
    task: The name of a task; None matches every task.
    layer: The name of a layer; None matches every layer.
    **settings: Values of settings, such as `length=64`.

  Returns:
    The matching entries, in the order of published.json.
  """
  return tuple(
    entry
    for entry in _load_entries()
    if task in (None, entry.task)
    and layer in (None, entry.layer)
    and all(settings.get(name, value) == value for name, value in entry.settings)
  )


def published_numbers_table(
  title: str, entries: Iterable[Entry], measured: Mapping[Entry, Interval] | None = None
) -> Table:
  """Returns a table of published numbers, their sources and the results of this repository.

  The difference is our result minus the published number, which is taken as exact. Settings that
  all entries share are listed in the caption.

  Args:
    title: The title of the table.
    entries: The published numbers.
    measured: The results of this repository by entry; None omits the columns of the comparison.

  Returns:
    The table, with a row for each entry.
  """
  entries = tuple(entries)
  shared = set.intersection(*(set(entry.settings) for entry in entries)) if entries else set()
  compared = ('measured here', 'measured minus published') if measured is not None else ()
  columns = ('layer', 'task', 'settings', 'metric', 'published', *compared, 'reliability', 'source')
  rows = [
    (
      *(entry.layer, entry.task, _describe_settings_and_note(entry, shared), entry.metric),
      _published_value_or_upper_bound(entry),
      *(_format_value_and_difference(entry, measured.get(entry)) if measured is not None else ()),
      *(entry.reliability, entry.source),
    )
    for entry in entries
  ]
  used = dict.fromkeys(entry.reliability for entry in entries)
  sentences = [f'All entries have {_format_settings(shared)}.'] if shared else []
  legend = '; '.join(f'{name}: {RELIABILITIES[name]}' for name in used)
  sentences.append(f'Reliability of the published numbers: {legend}.' if entries else '')
  return Table(title, columns, rows, ' '.join(sentences))


def _describe_settings_and_note(entry: Entry, shared_settings: set) -> str:
  own_settings = _format_settings(set(entry.settings) - shared_settings)
  return ', '.join(filter(None, (own_settings, entry.note)))


def _format_settings(settings: Iterable[tuple[str, Any]]) -> str:
  return ', '.join(f'{name}={value}' for name, value in sorted(settings))


def _published_value_or_upper_bound(entry: Entry) -> float | str:
  return entry.value if entry.relation == '=' else f'{entry.relation} {entry.value:g}'


def _format_value_and_difference(
  entry: Entry, measured: Interval | None
) -> tuple[Interval | None, Interval | None]:
  exact = measured is not None and entry.relation == '='
  return measured, measured.add_offset(-entry.value) if exact else None


@functools.cache
def _load_entries() -> tuple[Entry, ...]:
  text = pathlib.Path(__file__).with_name('published.json').read_text(encoding='utf-8')
  return tuple(entry for group in json.loads(text) for entry in _parse_published_numbers(group))


def _parse_published_numbers(json_group: dict) -> Iterable[Entry]:
  """Yields the published numbers in a JSON object that lists the numbers of one source.

  JSON keys of a number that are not fields of `Entry` are settings of the published experiment.
  """
  fields = {field.name for field in dataclasses.fields(Entry)}
  shared = {name: v for name, v in json_group.items() if name not in ('settings', 'entries')}
  for entry in json_group['entries']:
    own_fields = {name: value for name, value in entry.items() if name in fields}
    settings = json_group['settings'] | {k: v for k, v in entry.items() if k not in fields}
    yield Entry(**shared, **own_fields, settings=tuple(sorted(settings.items())))
