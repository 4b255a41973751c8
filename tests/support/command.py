"""Commands executed in the process of the test, with their output and exit code."""

import contextlib
import functools
import inspect
import io
import sys
from typing import NamedTuple
from unittest import mock

from absl.testing import flagsaver

from experiments.lab.cells import environment
from experiments.lab.launch import driver, flags


class CommandResult(NamedTuple):
  """The exit code and the output of a command."""

  code: int
  out: str
  err: str


def run_command(script, *arguments: str, define_flags=None, main=None) -> CommandResult:
  """Runs the command of a module, or of the study that the module defines.

  The devices are those of the test process, in which JAX has already been initialised.

  Args:
    script: The module.
    *arguments: The command-line arguments.
    define_flags: The function that defines the flags, instead of that of the module.
    main: The main function, instead of that of the module.

  Returns:
    The exit code and the output.
  """
  if study := getattr(script, 'STUDY', None):
    define_flags = define_flags or functools.partial(study.define_flags, study.presets)
    main, text = main or (lambda: driver.run_study(study)), study.question
  else:
    define_flags, text = define_flags or script.define_flags, script.__doc__
    main = main or script.main
  out, err = io.StringIO(), io.StringIO()
  with (
    flagsaver.flagsaver(),  # Removes the flags that the command defines.
    mock.patch.object(sys, 'argv', [getattr(script, '__name__', 'command'), *arguments]),
    mock.patch.object(environment, 'configure_jax'),
    contextlib.redirect_stdout(out),
    contextlib.redirect_stderr(err),
  ):
    try:
      takes_arguments = bool(inspect.signature(main).parameters)
      flags.run_command_line(main, define_flags, text, takes_arguments=takes_arguments)
    except SystemExit as end:
      code = end.code or 0
  return CommandResult(code, out.getvalue(), err.getvalue())


def evaluate_on_preset(script, *arguments: str, function) -> list:
  """Returns the list that a function computes from the preset of a study under the given flags."""
  values = []

  def main():
    values.extend(function(flags.requested_preset(script.STUDY.presets)))

  result = run_command(script, *arguments, main=main)
  assert result.code == 0, result.err
  return values
