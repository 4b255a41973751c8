"""Everything that a command can name: layers, tasks, studies, with all options and defaults.

  python -m experiments.catalogue
  python -m experiments.catalogue --of=layers

A name alone stands for the defaults that are listed; `lstm(forget_bias=3.0)` changes one of them.
"""

from collections.abc import Callable

from absl import flags as absl_flags

from experiments import STUDIES, load
from experiments.lab import source
from experiments.lab.errors import no_such
from experiments.lab.launch import flags, listing

KINDS = {
  'layers': 'LAYERS', 'translators': 'TRANSLATORS', 'positions': 'POSITIONS', 'tasks': 'TASKS',
}


def define() -> None:
  """The command's flags."""
  absl_flags.DEFINE_string(
    'of', None, f'What to list: {", ".join((*KINDS, "studies"))}. Default: all.')


def entries(kind: str) -> str:
  """The entries of a catalogue, each with what it says of itself."""
  name = KINDS[kind]
  lines = (
    f'{listing.component(entry, source.options_of(*place))}: {source.summary(*place)}'
    for entry, place in source.catalogue(name).items()
  )
  return listing.titled(listing.TITLES[name], list(lines))


def studies() -> str:
  """The studies, what they ask, and their presets."""
  made = []
  for name in STUDIES:
    study = load(name)
    lines = [listing.of_preset(*each) for each in study.presets.items()]
    made.append(listing.titled(f'{name}. {study.question.partition(chr(10))[0][:-1]}', lines))
  return '\n\n'.join(made)


def main() -> None:
  """Prints the list."""
  of: dict[str, Callable[[], str]] = {
    **{kind: lambda kind=kind: entries(kind) for kind in KINDS}, 'studies': studies}
  wanted = flags.FLAGS.of
  if wanted is not None and wanted not in of:
    raise no_such('list', wanted, of)
  print('\n\n'.join(of[kind]() for kind in ([wanted] if wanted else of)))


if __name__ == '__main__':
  flags.main(main, define, __doc__)
