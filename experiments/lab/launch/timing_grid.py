"""What the cells of times have in common: the settings of the layers that are timed."""

from collections.abc import Mapping
from typing import Any

from experiments.lab.cells import checks, timing
from experiments.lab.cells.run import Run
from experiments.lab.errors import BadInput
from experiments.lab.launch import flags
from experiments.lab.tasks.text import Text


def settings(preset: Mapping[str, Any], why: str, unused: tuple[str, ...] = ()) -> Run:
  """The settings of a preset and the command; a BadInput for a flag that no time depends on.

  Args:
    preset: its settings.
    why: these flags mean nothing.
    unused: flags that mean nothing here besides `timing.UNUSED`.

  """
  for name in (*timing.UNUSED, 'parallel', *unused):
    if flags.given(name):
      raise BadInput(f'--{name} means nothing here: {why}')
  run = flags.make_run(**preset | flags.settings())
  flags.refuse_unused([checks.without_effect(run, Text())])
  return checks.neutral(run, Text())
