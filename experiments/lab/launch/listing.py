"""What can be named in a command: presets, layers, tasks, with their options, a line each.

All of it is read from the source (`lab/source.py`), so that --help loads no JAX.
"""

import dataclasses
import textwrap
from collections.abc import Mapping
from typing import Any

from experiments.lab import source
from experiments.lab.launch.study import Study, TaskGrid

PLACED = ('layer', 'layers')  # options whose values stand without their name
WIDTH = 96
TITLES = {
  'LAYERS': 'Layers', 'TRANSLATORS': 'Translators (of tasks from sequence to sequence)',
  'POSITIONS': "Positions (of attention: attention(positions=alibi))", 'TASKS': 'Tasks',
}


def of_study(study: Study) -> str:
  """The presets of a study, and all layers, translators, positions and tasks."""
  presets = [of_preset(name, preset) for name, preset in study.presets.items()]
  return '\n\n'.join((titled('Presets', presets), *map(of_catalogue, TITLES)))


def of_catalogue(name: str) -> str:
  """The entries of a catalogue with their options and defaults."""
  return titled(TITLES[name], [
    component(entry, source.options_of(*place))
    for entry, place in source.catalogue(name).items()
  ])


def titled(title: str, entries: list[str]) -> str:
  """A title, and the entries below it."""
  wrapped = (textwrap.fill(
    entry, WIDTH, initial_indent=' ' * 2, subsequent_indent=' ' * 6, break_long_words=False,
    break_on_hyphens=False) for entry in entries)
  return '\n'.join((f'{title}:', *wrapped))


def component(name: str, options: Mapping[str, str]) -> str:
  """An entry of a catalogue as a spec that writes all its defaults out."""
  said = [text if option in PLACED else f'{option}={text}' for option, text in options.items()]
  return f'{name}({", ".join(said)})' if said else name


def of_preset(name: str, preset: Any) -> str:
  """A preset in a line: its fields and what they hold."""
  fields = ((field.name, getattr(preset, field.name)) for field in dataclasses.fields(preset))
  return f'{name}: ' + '; '.join(f'{key} {worded(value)}' for key, value in fields if value)


def worded(value: Any) -> str:
  """A value of a preset in a few words."""
  if isinstance(value, TaskGrid):
    at = f' at {", ".join(map(str, value.distances))}' if value.distances else ''
    own = f' ({worded(value.settings)})' if value.settings else ''
    return f'{value.task}{at}{own}'
  if dataclasses.is_dataclass(value):
    parts = (getattr(value, field.name) for field in dataclasses.fields(value))
    return ' '.join(worded(part) for part in parts if part not in ({}, ())) or 'all layers'
  if isinstance(value, Mapping):
    return ', '.join(f'{key}={worded(item)}' for key, item in value.items())
  if isinstance(value, list | tuple):
    simple = all(isinstance(item, int | float | str) for item in value)
    return (', ' if simple else '; ').join(map(worded, value))
  return str(value)
