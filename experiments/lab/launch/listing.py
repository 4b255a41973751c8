"""Formatted lists of presets, layers, encoder-decoder models, position encodings and tasks.

The lists are read from the source code (`lab/source.py`), so that --help needs no import of JAX.
"""

import dataclasses
import textwrap
from collections.abc import Mapping
from typing import Any

from experiments.lab import source
from experiments.lab.launch.study import Study, TaskGrid

UNNAMED_OPTIONS = ('layer', 'layers')  # options whose values a spec contains without a name
WIDTH = 96
TITLES = {
  'LAYERS': 'Layers', 'TRANSLATORS': 'Translators (for sequence-to-sequence tasks)',
  'POSITIONS': 'Positions (for attention, as in attention(positions=alibi))', 'TASKS': 'Tasks',
}


def study_listing(study: Study) -> str:
  """Lists a study's presets, all layers, encoder-decoder models, position encodings and tasks."""
  presets = [format_preset(name, preset) for name, preset in study.presets.items()]
  components = map(format_registered_components, TITLES)
  return '\n\n'.join((format_titled_list('Presets', presets), *components))


def format_registered_components(catalogue_name: str) -> str:
  """Lists the components of a catalogue, such as LAYERS, with their options and defaults."""
  return format_titled_list(TITLES[catalogue_name], [
    format_component(entry, source.constructor_options(*definition))
    for entry, definition in source.registered_components(catalogue_name).items()
  ])


def format_titled_list(title: str, entries: list[str]) -> str:
  """Formats a title, followed by indented and wrapped entries."""
  wrapped = (textwrap.fill(
    entry, WIDTH, initial_indent=' ' * 2, subsequent_indent=' ' * 6, break_long_words=False,
    break_on_hyphens=False) for entry in entries)
  return '\n'.join((f'{title}:', *wrapped))


def format_component(name: str, options: Mapping[str, str]) -> str:
  """Returns the spec of a component, such as a layer, with every option at its default value."""
  texts = [
    default if option in UNNAMED_OPTIONS else f'{option}={default}'
    for option, default in options.items()]
  return f'{name}({", ".join(texts)})' if texts else name


def format_preset(name: str, preset: Any) -> str:
  """Formats the name and the field values of a preset in one line."""
  fields = ((field.name, getattr(preset, field.name)) for field in dataclasses.fields(preset))
  return f'{name}: ' + '; '.join(
    f'{key} {format_preset_value(value)}' for key, value in fields if value)


def format_preset_value(value: Any) -> str:
  """Formats the value of a preset's field, including nested values."""
  if isinstance(value, TaskGrid):
    distances = f' at {", ".join(map(str, value.distances))}' if value.distances else ''
    settings = f' ({format_preset_value(value.settings)})' if value.settings else ''
    return f'{value.task}{distances}{settings}'
  if dataclasses.is_dataclass(value):
    parts = (getattr(value, field.name) for field in dataclasses.fields(value))
    texts = [format_preset_value(part) for part in parts if part not in ({}, ())]
    return ' '.join(texts) or 'all layers'
  if isinstance(value, Mapping):
    return ', '.join(f'{key}={format_preset_value(item)}' for key, item in value.items())
  if isinstance(value, list | tuple):
    simple = all(isinstance(item, int | float | str) for item in value)
    return (', ' if simple else '; ').join(map(format_preset_value, value))
  return str(value)
