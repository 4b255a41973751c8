"""A command, in this process as a shell would start it: what it prints, how it ends."""

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


class Done(NamedTuple):
  """How a command ended."""

  code: int
  out: str
  err: str


def run(script, *words: str, define=None, main=None) -> Done:
  """Runs the command of a module, or of the study in it; `main` is called in its own's place.

  Devices are this process's: it has made arrays before, which a command's own process has not.
  """
  if study := getattr(script, 'STUDY', None):
    define = define or functools.partial(study.define, study.presets)
    main, text = main or (lambda: driver.launch(study)), study.question
  else:
    define, text = define or script.define, script.__doc__
    main = main or script.main
  out, err = io.StringIO(), io.StringIO()
  with (
    flagsaver.flagsaver(),  # forgets the flags that the command defines
    mock.patch.object(sys, 'argv', [getattr(script, '__name__', 'command'), *words]),
    mock.patch.object(environment, 'prepare'),
    contextlib.redirect_stdout(out),
    contextlib.redirect_stderr(err),
  ):
    try:
      takes_words = bool(inspect.signature(main).parameters)
      flags.main(main, define, text, takes_words=takes_words)
    except SystemExit as end:
      code = end.code or 0
  return Done(code, out.getvalue(), err.getvalue())


def asked(script, *words: str, of) -> list:
  """What `of(preset)` returns of a study's module under the flags of a command."""
  found = []
  done = run(script, *words, main=lambda: found.extend(of(flags.preset(script.STUDY.presets))))
  assert done.code == 0, done.err
  return found
