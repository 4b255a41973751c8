"""What others have measured, to be printed beside what is measured here.

The numbers live in published.json, in groups that share a source. Each has its metric, the rule by
which the reported run was selected, the protocol, the source, and a mark that says how far to trust
it. Layers and settings bear this repository's names where it has them; `trivial` is the best that
one can do without looking.
"""

import dataclasses
import functools
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from experiments.lab.results.statistics import Interval
from experiments.lab.results.table import Table

MARKS = {
  'repository': "read from the authors' own repository",
  'second-hand': 'read from a copy or a reprint of the paper',
  'read off a figure': 'approximate',
  'derived': 'computed from the settings',
  'unverified': 'from memory: check before use',
}


@dataclasses.dataclass(frozen=True)
class Entry:
  """One published number; `relation` is '<' where only an upper bound was printed."""

  task: str
  layer: str
  metric: str
  value: float
  selection: str
  protocol: str
  source: str
  mark: str
  settings: tuple[tuple[str, Any], ...] = ()
  relation: str = '='
  note: str = ''


def published(task: str | None = None, layer: str | None = None, **settings) -> tuple[Entry, ...]:
  """Look up what was published; an entry that does not name a setting holds for all its values."""
  return tuple(
    entry
    for entry in _entries()
    if task in (None, entry.task)
    and layer in (None, entry.layer)
    and all(settings.get(name, value) == value for name, value in entry.settings)
  )


def table(
  title: str, entries: Iterable[Entry], ours: Mapping[Entry, Interval] | None = None
) -> Table:
  """Print what was published with marks and sources; with `ours`, also how far off we are.

  The difference is ours minus the published number, which is taken as exact. Settings that all
  entries share stand in the caption.
  """
  entries = tuple(entries)
  shared = set.intersection(*(set(entry.settings) for entry in entries)) if entries else set()
  compared = ('ours', 'difference') if ours is not None else ()
  columns = ('layer', 'task', 'settings', 'metric', 'published', *compared, 'mark', 'source')
  rows = [
    (
      *(entry.layer, entry.task, _conditions(entry, shared), entry.metric, _value(entry)),
      *(_compare(entry, ours.get(entry)) if ours is not None else ()),
      *(entry.mark, entry.source),
    )
    for entry in entries
  ]
  used = dict.fromkeys(entry.mark for entry in entries)
  notes = [f'All with {_named(shared)}.'] if shared else []
  legend = '; '.join(f'{mark}: {MARKS[mark]}' for mark in used)
  notes.append(f'How far to trust the published numbers. {legend}.' if entries else '')
  return Table(title, columns, rows, ' '.join(notes))


def _conditions(entry: Entry, shared: set) -> str:
  own = _named(set(entry.settings) - shared)
  return ', '.join(filter(None, (own, entry.note)))


def _named(settings: Iterable[tuple[str, Any]]) -> str:
  return ', '.join(f'{name}={value}' for name, value in sorted(settings))


def _value(entry: Entry) -> float | str:
  return entry.value if entry.relation == '=' else f'{entry.relation} {entry.value:g}'


def _compare(entry: Entry, ours: Interval | None) -> tuple[Interval | None, Interval | None]:
  exact = ours is not None and entry.relation == '='
  return ours, ours.shifted(-entry.value) if exact else None


@functools.cache
def _entries() -> tuple[Entry, ...]:
  text = pathlib.Path(__file__).with_name('published.json').read_text(encoding='utf-8')
  return tuple(entry for group in json.loads(text) for entry in _expand(group))


def _expand(group: dict) -> Iterable[Entry]:
  """Spell out a group: whatever an entry names beyond the fields of `Entry` is a setting."""
  fields = {field.name for field in dataclasses.fields(Entry)}
  shared = {name: value for name, value in group.items() if name not in ('settings', 'entries')}
  for entry in group['entries']:
    own = {name: value for name, value in entry.items() if name in fields}
    settings = group['settings'] | {k: v for k, v in entry.items() if k not in fields}
    yield Entry(**shared, **own, settings=tuple(sorted(settings.items())))
