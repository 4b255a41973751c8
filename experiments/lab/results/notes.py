"""What went wrong with records, as a sentence, with the command that helps.

A study or a claim whose records it cannot read must not take the others with it. `attempt` is the
one place where such an error is caught: it becomes a reason, which a note on the page repeats.
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
  """A sentence, and the command that helps, if one does."""

  text: str
  command: str = ''

  def __str__(self) -> str:
    return f'{self.text}: {self.command}' if self.command else self.text


def attempt(function: Callable, *arguments) -> tuple[Any, str]:
  """What a function of records returns and no reason, or None and the reason why it failed.

  A library that is missing is no fault of the records, so that its error passes.
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


def command(script: str, folder: str | os.PathLike, *flags: str) -> str:
  """The command of a script on a folder of results, as a shell takes it."""
  words = 'python', '-m', f'experiments.{script}', *flags, f'--runs={folder}'
  return ' '.join(map(shlex.quote, words))


def unreadable(study: str, reason: str, folder: str | os.PathLike) -> Note:
  """The note on a study whose records an effect or a table could not read."""
  return Note(
    f'The records of {study} could not be read as a whole: {reason}. A record in '
    f'{pathlib.Path(folder) / "cells"} is not what the study expects, or the program is at fault. '
    f'Move {study}-*.json out of that folder and run the study again',
    command(study, folder),
  )
