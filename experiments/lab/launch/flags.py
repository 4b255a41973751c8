"""Flags, once: each setting's flag and help come from its dataclass field, its value from a preset.

A script's own values win over its preset's, which win over the fields' defaults. Whatever is wrong
with a command is said in one line, and the exit code is 2. JAX is not loaded to read flags.
"""

import collections
import dataclasses
import math
import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import app, flags, logging

from experiments.lab import interruption
from experiments.lab.cells import limits
from experiments.lab.cells.run import Run
from experiments.lab.errors import BadInput, brief, no_such, worded
from experiments.lab.launch import output
from experiments.lab.optional import MissingExtra
from experiments.lab.results.store import StoreError
from experiments.lab.training.recipe import PARALLEL

FLAGS = flags.FLAGS
MOST_SEEDS = 1000
MOST_PARTS = 1024  # processes, or devices that a CPU is split into
DEFINE = {
  int: flags.DEFINE_integer,
  float: flags.DEFINE_float,
  str: flags.DEFINE_string,
  bool: flags.DEFINE_boolean,
  tuple: flags.DEFINE_string,  # whole numbers, separated by commas
}

OWN = {'seeds': flags.DEFINE_integer, 'learning_rates': flags.DEFINE_string}


class PathParser(flags.ArgumentParser):
  """Reads a path: `~` is the home folder, and no path is meant by an empty text."""

  syntactic_help = 'a path'

  def __init__(self, optional: bool):
    super().__init__()
    self.optional = optional

  def parse(self, argument: str) -> str:
    """The path with the home folder written out; ValueError where there is none."""
    path = os.path.expanduser(argument)
    if not path and not self.optional:
      raise ValueError('a path is not empty')
    if path.startswith('~'):
      raise ValueError(f'no home folder {path.partition("/")[0]} is known; ./~ is a name here')
    return path

  def flag_type(self) -> str:
    """What an error calls a value."""
    return 'path'


def define_path(name: str, default: str | None, text: str, optional: bool = False) -> None:
  """A flag whose value is a file or a folder; with `optional` it may be empty, for none."""
  flags.DEFINE(PathParser(optional), name, default, text)


def define_store() -> None:
  """--runs."""
  define_path('runs', 'runs/quick', 'Folder of the results; made if it is not there.')


def define_study(presets: Mapping[str, Any], steps: str, lengths: str) -> None:
  """What every study can be told; `steps` and `lengths` say what these two mean to it."""
  define_store()
  flags.DEFINE_string(
    'preset', 'quick', f'Where values not given come from: {", ".join(presets)}.'
  )
  flags.DEFINE_string(
    'layers', None,
    'Layers to compare, separated by commas: names below, with options if need be, such as '
    f"'attention(positions=alibi),lstm'. {of_presets(presets, 'layers')}",
  )
  flags.DEFINE_string('lengths', None, f"{lengths} {of_presets(presets, 'lengths')}".strip())
  texts = {'seeds': 'How many seeds, from 0 on.', 'steps': steps,
           'learning_rates': 'Peak learning rates, separated by commas.'}
  for field in dataclasses.fields(Run):
    text = texts.get(field.name, field.metadata.get('help'))
    if text and field.name not in ('layer', 'task'):
      define = OWN.get(field.name, DEFINE[type(field.default)])
      define(field.name, None, f'{text} {default_of(field, presets)}')
  flags.DEFINE_string(
    'parallel', 'jit', f'How members are spread over devices: {", ".join(PARALLEL)}.'
  )
  flags.DEFINE_integer('host_devices', 0, 'Devices that a CPU is split into; 0: one a core.')
  flags.DEFINE_float('timeout', math.inf, 'Seconds after which a cell stops as it is.')
  flags.DEFINE_boolean(
    'retry', False,
    'Run cells again that are stored but did not finish, or whose times did not repeat.',
  )
  flags.DEFINE_string(
    'rerun', None,
    'Run cells again although they are stored: those with these layers, tasks or comparisons, '
    'separated by commas. What they said is kept in the folder `history`.',
  )
  define_path(
    'cache', '~/.cache/sequence-lab',
    'Folder of compiled programs, kept between runs; empty: none.', optional=True,
  )


def default_of(field: dataclasses.Field, presets: Mapping[str, Any]) -> str:
  """The default of a setting, and those of the presets that have another, for --help."""
  def written(value) -> str:
    if field.name == 'seeds':
      return str(len(value))
    text = ','.join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text or 'none'

  of_presets = ((name, preset.settings.get(field.name, field.default))
                for name, preset in presets.items())
  others = [f'; {name} {written(value)}' for name, value in of_presets if value != field.default]
  return f'[{written(field.default)}{"".join(others)}]'


def of_presets(presets: Mapping[str, Any], name: str) -> str:
  """What the presets have under a name, for --help; '': they have nothing."""
  values = {key: getattr(preset, name, ()) for key, preset in presets.items()}
  said = [f'{key} {", ".join(map(str, value)) if isinstance(value, tuple) else value}'
          for key, value in values.items() if value]
  return f'[{"; ".join(said)}]' if said else ''


def define_workers() -> None:
  """--workers: of studies that need a machine's cores, and no device."""
  flags.DEFINE_integer(
    'workers', 0,
    'Processes in which cells are made side by side; 0: one a core, and at most 8.',
  )


def define_training() -> None:
  """--tasks and --save_weights: what only studies that train can be told."""
  flags.DEFINE_boolean(
    'save_weights', False,
    'Keep the parameters of the members at the chosen rate, under the folder of results as '
    'weights/<cell>-seed<n>.safetensors; of cells that are trained now, not of stored ones.',
  )
  flags.DEFINE_string(
    'tasks', None,
    'Tasks to ask, separated by commas: names below, with options if need be; a task that the '
    "preset asks keeps the preset's options and distances. Default: all of the preset's, below.",
  )


def given(name: str) -> bool:
  """Whether the command set a flag."""
  return FLAGS[name].present > 0


def settings() -> dict[str, Any]:
  """The values of the command's own for the fields of a run."""
  names = (field.name for field in dataclasses.fields(Run) if 'help' in field.metadata)
  own = {name: getattr(FLAGS, name) for name in names if name in FLAGS and given(name)}
  if 'test_lengths' in own:
    own['test_lengths'] = numbers('test_lengths', FLAGS.test_lengths, int)
  if given('seeds'):
    own['seeds'] = seeds(FLAGS.seeds)
  if given('learning_rates'):
    own['learning_rates'] = numbers('learning_rates', FLAGS.learning_rates, float)
  return own


def seeds(count: int) -> tuple[int, ...]:
  """The first seeds."""
  if not 1 <= count <= MOST_SEEDS:
    raise BadInput(f'--seeds is how many, 1 to {MOST_SEEDS}, not {limits.written(count)}')
  return tuple(range(count))


def lengths() -> tuple[int, ...] | None:
  """--lengths, ascending; None: not given."""
  if not given('lengths'):
    return None
  found = numbers('lengths', FLAGS.lengths, int)
  if min(found) < 1:
    raise BadInput(f'--lengths are 1 or more, not {limits.written(min(found))}')
  if max(found) > limits.LENGTH:
    raise BadInput(f'--lengths are at most {limits.LENGTH}, not {limits.written(max(found))}')
  return tuple(sorted(found))


def numbers(name: str, text: str, kind: type) -> tuple:
  """The distinct, finite numbers of a list that is separated by commas."""
  try:
    found = tuple(kind(part) for part in text.split(','))
  except ValueError:
    word = 'whole numbers' if kind is int else 'numbers'
    raise BadInput(f'--{name} takes {word} separated by commas, not {text!r}') from None
  if len(set(found)) < len(found) or (kind is float and not all(map(math.isfinite, found))):
    raise BadInput(f'--{name} takes distinct, finite numbers, not {text!r}')
  return found


def preset(presets: dict[str, Any]) -> Any:
  """The preset that --preset names."""
  if FLAGS.preset not in presets:
    raise no_such('preset', FLAGS.preset, presets)
  return presets[FLAGS.preset]


def refuse_unused(reasons: Sequence[Mapping[str, str]]) -> None:
  """A BadInput for a setting of the command that changes nothing in any run.

  Args:
    reasons: of each run, the settings that change nothing in it -> why.

  """
  for name in reasons[0] if reasons else ():
    if given(name) and all(name in idle for idle in reasons):
      raise BadInput(f'--{name} changes nothing here: {reasons[0][name]}')


def make_run(**values) -> Run:
  """A run, or what is wrong with the values."""
  try:
    return Run(**values)
  except ValueError as error:
    raise BadInput(str(error)) from None


def main(
  script: Callable[..., None], define: Callable[[], None], text: str,
  more: Callable[[], str] = str, takes_words: bool = False,
) -> None:
  """Defines a command's flags, reads them and runs it.

  Args:
    script: what the command does.
    define: defines its flags.
    text: its docstring, for --help.
    more: what --help says below the flags.
    takes_words: whether the script is called with the words of the command that are no flags.

  """
  define()

  def parse(argv: Sequence[str]) -> list[str]:
    names = {word.lstrip('-').partition('=')[0] for word in argv[1:]}
    if names & {'help', 'helpfull', 'helpshort', 'h'} or '-?' in argv:
      print('\n\n'.join(filter(None, (text.strip(), _help(), more()))))
      sys.exit(0)
    logging.set_verbosity(logging.WARNING)  # what --verbosity says comes later and wins
    try:
      return FLAGS(argv)
    except flags.Error as error:
      return _refuse(str(error))

  def run(argv: Sequence[str]) -> None:
    try:
      _check_words(argv, sys.argv[1:], takes_words)
      _check_numbers()
      _check_execution()
      with interruption.noticed():
        script(*argv[1:])
    except (BadInput, MissingExtra, StoreError) as error:
      _refuse(str(error))
    except OSError as error:  # a full disk, a folder that is a file: wherever files are written
      _refuse(worded(error))
    except interruption.Interrupted as stop:  # which has been said
      sys.exit(stop.exit_code)

  with output.forgiving() as out:
    try:
      app.run(run, flags_parser=parse)
    except SystemExit:
      out.flush()
      if out.failed:
        _refuse(f'cannot write to standard output: {out.error.strerror}')
      raise


def _ours() -> list[flags.Flag]:
  """The flags that are not absl's."""
  return [flag for module, own in FLAGS.flags_by_module_dict().items()
          if not module.startswith('absl') for flag in own]


def _help() -> str:
  """Every flag of ours, its meaning and its default."""
  lines = []
  for flag in _ours():
    written = flag.default_unparsed
    default = '' if written in (None, '') else f' [{written}]'
    lines += [f'  --{flag.name}', textwrap.fill(
      flag.help + default, 96, initial_indent=' ' * 6, subsequent_indent=' ' * 6,
      break_on_hyphens=False)]
  return '\n'.join(lines)


def _check_words(argv: Sequence[str], words: Sequence[str], takes_words: bool) -> None:
  """A command with stray words, or with one flag twice, was meant otherwise."""
  if len(argv) > 1 and not takes_words:
    raise BadInput(f'{argv[1]!r} is no flag; flags are written --name=value')
  names = [word.lstrip('-').partition('=')[0] for word in words if word.startswith('-')]
  for name, count in collections.Counter(names).items():
    if count > 1:
      raise BadInput(f'--{name} is given {count} times')


def _check_numbers() -> None:
  """Whole numbers fit into 32 bits; others are finite, unless infinity is their flag's default."""
  for flag in _ours():
    if type(flag.value) is int and abs(flag.value) > limits.AXIS:
      raise BadInput(f'--{flag.name} is beyond {limits.AXIS}: {limits.written(flag.value)}')
    if type(flag.value) is float and not math.isfinite(flag.value) and flag.value != flag.default:
      raise BadInput(f'--{flag.name} is a finite number, not {flag.value}')


def _check_execution() -> None:
  """What says how to run, not what: it is in no run, so that it is checked here."""
  for name in ('workers', 'host_devices'):
    if name in FLAGS and not 0 <= FLAGS[name].value <= MOST_PARTS:
      raise BadInput(f'--{name} is 0 to {MOST_PARTS}, not {FLAGS[name].value}')
  if 'parallel' not in FLAGS:
    return
  if FLAGS.parallel not in PARALLEL:
    raise no_such('way to be --parallel', FLAGS.parallel, PARALLEL)
  if not FLAGS.timeout > 0:
    raise BadInput(f'--timeout is positive, not {FLAGS.timeout:g}')


def _refuse(message: str) -> None:
  print(brief(message), file=sys.stderr)
  sys.exit(2)
