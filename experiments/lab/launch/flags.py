"""Definition and parsing of the command-line flags of studies and other commands.

The flag and the help text of a setting come from its dataclass field. The value of a flag in the
command overrides the preset, and the preset overrides the default of the field. An invalid command
is reported in one line, and its exit code is 2. Flags are parsed without an import of JAX.
"""

import collections
import dataclasses
import functools
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
from experiments.lab.errors import BadInput, describe_os_error, shorten_to_line, unknown_name_error
from experiments.lab.launch import output
from experiments.lab.optional import MissingExtra
from experiments.lab.results.store import StoreError
from experiments.lab.training.recipe import PARALLEL

FLAGS = flags.FLAGS
MAX_SEEDS = 1000
MAX_PROCESSES = 1024  # or devices of a CPU
DEFINITIONS = {
  int: flags.DEFINE_integer,
  float: flags.DEFINE_float,
  str: flags.DEFINE_string,
  bool: flags.DEFINE_boolean,
  tuple: flags.DEFINE_string,  # whole numbers, separated by commas
}

# Flags whose type differs from that of the `Run` field with the same name.
SEPARATE_DEFINITIONS = {'seeds': flags.DEFINE_integer, 'learning_rates': flags.DEFINE_string}


class PathParser(flags.ArgumentParser):
  """Parser of path flags, which replaces `~` by the home folder."""

  syntactic_help = 'a path'

  def __init__(self, optional: bool):
    super().__init__()
    self.optional = optional

  def parse(self, argument: str) -> str:
    """Expands the home folder in a path, or raises ValueError if the path is invalid."""
    path = os.path.expanduser(argument)
    if not path and not self.optional:
      raise ValueError('a path must not be empty')
    if path.startswith('~'):
      raise ValueError(f'no home folder {path.partition("/")[0]} is known; '
                       f'write ./~ for a name that begins with ~')
    return path

  def flag_type(self) -> str:
    """The name of the flag's type in error messages."""
    return 'path'


def define_path_flag(
    name: str, default: str | None, help_text: str, optional: bool = False) -> None:
  """Defines a flag whose value is the path of a file or a folder.

  Args:
    name: name of the flag.
    default: default path; None if there is none.
    help_text: sentence for --help.
    optional: whether an empty value is valid and means no path.

  """
  flags.DEFINE(PathParser(optional), name, default, help_text)


def define_runs_flag() -> None:
  """Defines the flag --runs, which sets the folder of stored results."""
  define_path_flag('runs', 'runs/quick', 'Folder of stored results; created if it does not exist.')


def define_study_flags(presets: Mapping[str, Any], steps_help: str, lengths_help: str) -> None:
  """Defines the flags that all studies have.

  Args:
    presets: presets of the study by name.
    steps_help: help text of --steps, whose meaning depends on the study.
    lengths_help: help text of --lengths, whose meaning depends on the study.

  """
  define_runs_flag()
  flags.DEFINE_string(
    'preset', 'quick',
    f'Preset with the values of all flags that are not set: {", ".join(presets)}.'
  )
  flags.DEFINE_string(
    'layers', None,
    'Layers to compare, separated by commas; each is a name from the lists below, with options if '
    "needed, such as 'attention(positions=alibi),lstm'. "
    f"{format_preset_values(presets, 'layers')}",
  )
  flags.DEFINE_string(
    'lengths', None, f"{lengths_help} {format_preset_values(presets, 'lengths')}".strip())
  help_texts = {
    'seeds': f'Number of seeds, 1 to {MAX_SEEDS}; they are numbered from 0.', 'steps': steps_help,
    'learning_rates': 'Peak learning rates, separated by commas.'}
  for field in dataclasses.fields(Run):
    help_text = help_texts.get(field.name, field.metadata.get('help'))
    if help_text and field.name not in ('layer', 'task'):
      define = SEPARATE_DEFINITIONS.get(field.name, DEFINITIONS[type(field.default)])
      define(field.name, None, f'{help_text} {_format_defaults(field, presets)}')
  _define_execution_flags()


def _define_execution_flags() -> None:
  """Defines execution flags such as --timeout, which do not affect the numerical results."""
  flags.DEFINE_string(
    'parallel', 'jit',
    'Distribution of the members of an ensemble (one seed and one learning rate each) over '
    f'devices: {", ".join(PARALLEL)}.'
  )
  flags.DEFINE_integer(
    'host_devices', 0,
    f'Number of devices into which a CPU is split, 1 to {MAX_PROCESSES}; 0: one per core, at most '
    '8.',
  )
  flags.DEFINE_float(
    'timeout', math.inf,
    'Time limit of a cell in seconds, above 0. A cell that reaches it stops early and is stored.',
  )
  flags.DEFINE_boolean(
    'retry', False,
    'Execute again the cells that did not finish, and the timing cells whose two measurements of '
    'the training step differ too much.',
  )
  flags.DEFINE_string(
    'rerun', None,
    'Execute again the stored cells with one of these layers, tasks or benchmarks, separated by '
    'commas. Their previous records are kept in the folder `history`.',
  )
  define_path_flag(
    'cache', '~/.cache/sequence-lab',
    'Folder in which compiled programs are kept for later commands; empty: no cache.',
    optional=True,
  )


def _format_defaults(field: dataclasses.Field, presets: Mapping[str, Any]) -> str:
  """Returns, as text for --help, a setting's default and the presets that override it."""
  def format_value(value) -> str:
    if field.name == 'seeds':
      return str(len(value))
    text = ','.join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text or 'none'

  values = ((name, preset.settings.get(field.name, field.default))
            for name, preset in presets.items())
  differing = [
    f'; {name} {format_value(value)}' for name, value in values if value != field.default]
  return f'[{format_value(field.default)}{"".join(differing)}]'


def format_preset_values(presets: Mapping[str, Any], attribute: str) -> str:
  """Returns the value of an attribute in each preset as text for --help, or '' if all are empty."""
  values = {name: getattr(preset, attribute, ()) for name, preset in presets.items()}
  texts = [f'{name} {", ".join(map(str, value)) if isinstance(value, tuple) else value}'
           for name, value in values.items() if value]
  return f'[{"; ".join(texts)}]' if texts else ''


def define_workers_flag() -> None:
  """Defines the flag --workers for studies whose grid cells use only CPU cores."""
  flags.DEFINE_integer(
    'workers', 0,
    f'Number of processes that execute cells in parallel, 1 to {MAX_PROCESSES}; 0: one per core, '
    'at most 8.',
  )


def define_task_flags() -> None:
  """Defines the flags --tasks and --save_weights for studies that train models on tasks."""
  flags.DEFINE_boolean(
    'save_weights', False,
    'Save the parameters of all members at the selected learning rate in the folder of results as '
    'weights/<cell>-seed<n>.safetensors; stored cells are not trained again for this.',
  )
  flags.DEFINE_string(
    'tasks', None,
    'Tasks to train on, separated by commas; each is a name from the list below, with options if '
    'needed. A name alone keeps the options and distances that the preset has for this task. '
    'Default: all tasks of the preset.',
  )


def flag_was_set(name: str) -> bool:
  """Whether the command line sets a flag."""
  return FLAGS[name].present > 0


def requested_settings() -> dict[str, Any]:
  """Returns the `Run` settings that the command line sets, by name."""
  names = (field.name for field in dataclasses.fields(Run) if 'help' in field.metadata)
  settings = {name: getattr(FLAGS, name) for name in names if name in FLAGS and flag_was_set(name)}
  if 'test_lengths' in settings:
    settings['test_lengths'] = _parse_numbers('test_lengths', FLAGS.test_lengths, int)
  if flag_was_set('seeds'):
    settings['seeds'] = _first_seeds(FLAGS.seeds)
  if flag_was_set('learning_rates'):
    settings['learning_rates'] = _parse_numbers('learning_rates', FLAGS.learning_rates, float)
  return settings


def _first_seeds(num_seeds: int) -> tuple[int, ...]:
  """The seeds 0 to num_seeds - 1."""
  if not 1 <= num_seeds <= MAX_SEEDS:
    raise BadInput(
      f'--seeds is a number of seeds, 1 to {MAX_SEEDS}, not {limits.format_number(num_seeds)}')
  return tuple(range(num_seeds))


def requested_lengths() -> tuple[int, ...] | None:
  """Returns the values of --lengths in ascending order, or None if the flag is not set."""
  if not flag_was_set('lengths'):
    return None
  lengths = _parse_numbers('lengths', FLAGS.lengths, int)
  if min(lengths) < 1:
    raise BadInput(f'--lengths must be at least 1, not {limits.format_number(min(lengths))}')
  if max(lengths) > limits.MAX_LENGTH:
    raise BadInput(f'--lengths must be at most {limits.MAX_LENGTH}, '
                   f'not {limits.format_number(max(lengths))}')
  return tuple(sorted(lengths))


def _parse_numbers(flag_name: str, text: str, number_type: type) -> tuple:
  """Parses comma-separated numbers, which must be distinct and finite."""
  try:
    numbers = tuple(number_type(part) for part in text.split(','))
  except ValueError:
    noun = 'whole numbers' if number_type is int else 'numbers'
    raise BadInput(f'--{flag_name} takes {noun} separated by commas, not {text!r}') from None
  finite = number_type is int or all(map(math.isfinite, numbers))
  if len(set(numbers)) < len(numbers) or not finite:
    raise BadInput(f'--{flag_name} takes distinct, finite numbers, not {text!r}')
  return numbers


def requested_preset(presets: dict[str, Any]) -> Any:
  """Returns the preset that the flag --preset names."""
  if FLAGS.preset not in presets:
    raise unknown_name_error('preset', FLAGS.preset, presets)
  return presets[FLAGS.preset]


def reject_flags_without_effect(unused_flags_per_run: Sequence[Mapping[str, str]]) -> None:
  """Raises BadInput if the command line sets a flag that has no effect in any run.

  Args:
    unused_flags_per_run: for each run, its settings without effect, each with the reason.

  """
  for name, reason in unused_flags_per_run[0].items() if unused_flags_per_run else ():
    if flag_was_set(name) and all(name in unused_flags for unused_flags in unused_flags_per_run):
      raise BadInput(f'--{name} has no effect here: {reason}')


def create_run(settings: Mapping[str, Any]) -> Run:
  """Creates a run, or raises BadInput if a setting is invalid."""
  try:
    return Run(**settings)
  except ValueError as error:
    raise BadInput(str(error)) from None


def run_command_line(
  command: Callable[..., None], define_flags: Callable[[], None], description: str,
  help_appendix: Callable[[], str] = str, takes_arguments: bool = False,
) -> None:
  """Defines the flags of a command, parses them and runs the command.

  Args:
    command: function that runs the command.
    define_flags: function that defines the command's flags.
    description: text at the beginning of --help.
    help_appendix: function that returns the text after the flags in --help.
    takes_arguments: whether `command` is called with the positional arguments.

  """
  define_flags()

  def check_and_run_command(argv: Sequence[str]) -> None:
    try:
      _check_command_line(argv[1:], sys.argv[1:], takes_arguments)
      _check_numeric_flags()
      _check_execution_flags()
      with interruption.deferred_signals():
        command(*argv[1:])
    except (BadInput, MissingExtra, StoreError) as error:
      _exit_with_error(str(error))
    except OSError as error:  # such as a full disk, or a file in place of a folder
      _exit_with_error(describe_os_error(error))
    except interruption.Interrupted as stop:  # the signal has already been announced
      sys.exit(stop.exit_code)

  parse_flags = functools.partial(
    _parse_flags, description=description, help_appendix=help_appendix)
  with output.streams_that_tolerate_write_errors() as out:
    try:
      app.run(check_and_run_command, flags_parser=parse_flags)
    except SystemExit:
      out.flush()
      if out.has_write_error_except_broken_pipe:
        _exit_with_error(f'cannot write to standard output: {out.error.strerror}')
      raise


def _parse_flags(
    argv: Sequence[str], description: str, help_appendix: Callable[[], str]) -> list[str]:
  """Parses flags and returns the positional arguments, or prints --help and exits."""
  names = {argument.lstrip('-').partition('=')[0] for argument in argv[1:]}
  if names & {'help', 'helpfull', 'helpshort', 'h'} or '-?' in argv:
    print('\n\n'.join(filter(None, (description.strip(), _format_help(), help_appendix()))))
    sys.exit(0)
  logging.set_verbosity(logging.WARNING)  # --verbosity is parsed later and overrides this
  try:
    return FLAGS(argv)
  except flags.Error as error:
    return _exit_with_error(str(error))


def _flags_defined_in_this_repository() -> list[flags.Flag]:
  """Returns the flags that this repository defines, without those of absl."""
  return [flag for module, module_flags in FLAGS.flags_by_module_dict().items()
          if not module.startswith('absl') for flag in module_flags]


def _format_help() -> str:
  """Formats the name, the help text and the default of each flag of this repository."""
  lines = []
  for flag in _flags_defined_in_this_repository():
    value = flag.default_unparsed
    default = '' if value in (None, '') else f' [{value}]'
    lines += [f'  --{flag.name}', textwrap.fill(
      flag.help + default, 96, initial_indent=' ' * 6, subsequent_indent=' ' * 6,
      break_on_hyphens=False)]
  return '\n'.join(lines)


def _check_command_line(
  positional_arguments: Sequence[str], all_arguments: Sequence[str], accepts_positional: bool
) -> None:
  """Raises BadInput for an unexpected positional argument or a flag that is set twice."""
  if positional_arguments and not accepts_positional:
    raise BadInput(f'{positional_arguments[0]!r} is not a flag; flags are written --name=value')
  names = [argument.lstrip('-').partition('=')[0]
           for argument in all_arguments if argument.startswith('-')]
  for name, count in collections.Counter(names).items():
    if count > 1:
      raise BadInput(f'--{name} is given {count} times')


def _check_numeric_flags() -> None:
  """Raises BadInput for an integer beyond 32 bits, or for a float that is infinite or NaN.

  Infinity is valid for a flag whose default is infinity.
  """
  for flag in _flags_defined_in_this_repository():
    if type(flag.value) is int and abs(flag.value) > limits.MAX_AXIS:
      raise BadInput(f'--{flag.name} exceeds {limits.MAX_AXIS}: '
                     f'{limits.format_number(flag.value)}')
    if type(flag.value) is float and not math.isfinite(flag.value) and flag.value != flag.default:
      raise BadInput(f'--{flag.name} must be a finite number, not {flag.value}')


def _check_execution_flags() -> None:
  """Raises BadInput for an invalid value of an execution flag, such as --workers or --timeout."""
  for name in ('workers', 'host_devices'):
    if name in FLAGS and not 0 <= FLAGS[name].value <= MAX_PROCESSES:
      raise BadInput(f'--{name} must be 0 to {MAX_PROCESSES}, not {FLAGS[name].value}')
  if 'parallel' not in FLAGS:
    return
  if FLAGS.parallel not in PARALLEL:
    raise unknown_name_error('--parallel mode', FLAGS.parallel, PARALLEL)
  if not FLAGS.timeout > 0:
    raise BadInput(f'--timeout must be positive, not {FLAGS.timeout:g}')


def _exit_with_error(message: str) -> None:
  print(shorten_to_line(message), file=sys.stderr)
  sys.exit(2)
