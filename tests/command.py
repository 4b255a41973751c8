"""A script's command, in this process as a shell would start it: what it prints, how it ends."""

import contextlib
import io
import sys
from typing import NamedTuple
from unittest import mock

from absl.testing import flagsaver

from experiments.launch import environment, flags


class Done(NamedTuple):
  """How a command ended."""

  code: int
  out: str
  err: str


def run(script, *words: str, define=None, **replaced) -> Done:
  """Runs `python -m <script> <words>`; `replaced` are functions of the script to put in place.

  Devices are this process's: it has made arrays before, which a process of a script's own has not.
  """
  out, err = io.StringIO(), io.StringIO()
  with (
    flagsaver.flagsaver(),  # forgets the flags that the script defines
    mock.patch.object(sys, 'argv', [script.__name__, *words]),
    mock.patch.object(environment, 'prepare'),
    contextlib.redirect_stdout(out),
    contextlib.redirect_stderr(err),
    contextlib.ExitStack() as stack,
  ):
    for name, function in replaced.items():
      stack.enter_context(mock.patch.object(script, name, function))
    try:
      flags.main(lambda: script.main(), define or script.define, script.__doc__)
    except SystemExit as end:
      code = end.code or 0
  return Done(code, out.getvalue(), err.getvalue())
