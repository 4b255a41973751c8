"""Lists the layers, tasks and studies that commands accept, with their options and defaults.

  python -m experiments.catalogue
  python -m experiments.catalogue --of=layers

A name alone stands for the listed defaults. A spec such as `lstm(forget_bias=3.0)` changes one of
them.
"""

from collections.abc import Callable

from absl import flags as absl_flags

from experiments import STUDIES, load_study
from experiments.lab import source
from experiments.lab.errors import unknown_name_error
from experiments.lab.launch import flags, listing

KINDS = {
  'layers': 'LAYERS', 'translators': 'TRANSLATORS', 'positions': 'POSITIONS', 'tasks': 'TASKS',
}


def define_flags() -> None:
  absl_flags.DEFINE_string(
    'of', None, f'List to print: {", ".join((*KINDS, "studies"))}. Default: all lists.')


def catalogue_text(kind: str) -> str:
  """Formats the entries of a catalogue, each with its options and the summary of its docstring."""
  catalogue = KINDS[kind]
  lines = []
  for entry, definition in source.registered_components(catalogue).items():
    component = listing.format_component(entry, source.constructor_options(*definition))
    lines.append(f'{component}: {source.docstring_summary(*definition)}')
  return listing.format_titled_list(listing.TITLES[catalogue], lines)


def studies_text() -> str:
  """Formats all studies, each with its question and its presets."""
  paragraphs = []
  for name in STUDIES:
    study = load_study(name)
    lines = [listing.format_preset(*preset) for preset in study.presets.items()]
    question = study.question.partition('\n')[0][:-1]
    paragraphs.append(listing.format_titled_list(f'{name}. {question}', lines))
  return '\n\n'.join(paragraphs)


def main() -> None:
  """Prints the list chosen with --of, such as `layers` or `tasks`, or all lists without --of."""
  lists: dict[str, Callable[[], str]] = {
    **{kind: lambda kind=kind: catalogue_text(kind) for kind in KINDS}, 'studies': studies_text}
  requested = flags.FLAGS.of
  if requested is not None and requested not in lists:
    raise unknown_name_error('list', requested, lists)
  print('\n\n'.join(lists[kind]() for kind in ([requested] if requested else lists)))


if __name__ == '__main__':
  flags.run_command_line(main, define_flags, __doc__)
