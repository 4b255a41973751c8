"""Run settings of timing studies, combined from a preset and the command-line flags."""

from collections.abc import Mapping
from typing import Any

from experiments.lab.cells import checks, timing
from experiments.lab.cells.run import Run
from experiments.lab.errors import BadInput
from experiments.lab.launch import flags
from experiments.lab.tasks.text import Text


def apply_flags_to_timing_preset(
  preset_settings: Mapping[str, Any], flags_without_effect: tuple[str, ...],
  reason_for_no_effect: str
) -> Run:
  """Creates the run of a timing study from a preset's settings and the command-line flags.

  Args:
    preset_settings: settings of the preset by name.
    flags_without_effect: names of flags that do not affect the times of this study, beside
      `timing.UNUSED_SETTINGS`.
    reason_for_no_effect: why some flags do not affect times, for the error message.

  Returns:
    The run, in which settings without effect have their defaults.

  Raises:
    BadInput: if the command sets a flag that does not affect times.

  """
  for name in (*timing.UNUSED_SETTINGS, 'parallel', *flags_without_effect):
    if flags.flag_was_set(name):
      raise BadInput(f'--{name} has no effect here: {reason_for_no_effect}')
  run = flags.create_run(preset_settings | flags.requested_settings())
  flags.reject_flags_without_effect([checks.settings_without_effect(run, Text())])
  return checks.reset_unused_settings(run, Text())
