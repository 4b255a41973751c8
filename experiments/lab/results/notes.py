"""Notes about faulty records, each with the shell command that repairs the fault.

One study or claim with faulty records must not prevent the report on the other studies.
`call_or_describe_failure` is the only function that catches such an error, and it returns the
reason for a note on the page.
"""

import dataclasses
import os
import pathlib
import shlex
import traceback
from collections.abc import Callable
from typing import Any

from experiments.lab.optional import MissingExtra


@dataclasses.dataclass(frozen=True)
class Note:
  """A sentence about a fault, and a shell command that repairs it (empty if there is none)."""

  text: str
  command: str = ''

  def __str__(self) -> str:
    return f'{self.text}: {self.command}' if self.command else self.text


def call_or_describe_failure(function: Callable, *arguments) -> tuple[Any, str]:
  """Calls a function and returns (result, ''), or (None, error text) if the function fails.

  A missing library is not a fault of the records, so its error is raised again.

  Returns:
    The result and '', or None and the error in one line.
  """
  try:
    return function(*arguments), ''
  except MissingExtra:
    raise
  except Exception as error:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    message = str(error).strip().partition('\n')[0]
    where = f'{pathlib.Path(frame.filename).name}, line {frame.lineno}'
    return None, f'{type(error).__name__}: {message} ({where})'


def shell_command(script: str, folder: str | os.PathLike, *flags: str) -> str:
  """Returns the shell command, with quoted arguments, that runs a script on a folder of results.

  Args:
    script: The name of a module of `experiments`, such as the name of a study.
    folder: The folder of results, the value of `--runs`.
    *flags: Further flags, such as `--retry`.

  Returns:
    The command as one line.
  """
  arguments = 'python', '-m', f'experiments.{script}', *flags, f'--runs={folder}'
  return ' '.join(map(shlex.quote, arguments))


def unreadable_records_note(study: str, reason: str, folder: str | os.PathLike) -> Note:
  """Returns a note on a study for which the computation of a claim or a table raises an error.

  Args:
    study: The name of the study.
    reason: The error in one line.
    folder: The folder of results.

  Returns:
    The note, with the command that runs the study again.
  """
  return Note(
    f'The records of {study} could not be evaluated: {reason}. Either a record in '
    f'{pathlib.Path(folder) / "cells"} is invalid, or the program has a bug. '
    f'Move {study}-*.json out of that folder and run the study again',
    shell_command(study, folder),
  )
