"""The types of a grid cell (one point of an experiment grid) and of its outcome."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from experiments.lab.results.store import cell_key

OUT_OF_MEMORY = re.compile(r'RESOURCE_EXHAUSTED|out of memory', re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Outcome:
  """The result and the status of an executed grid cell.

  Attributes:
    result: numbers and text, as JSON values by name.
    status: 'finished', 'diverged', 'timeout', 'failed' or 'out of memory'.
    reason: why the cell did not finish, in one line; '' if it finished.

  """

  result: dict
  status: str = 'finished'
  reason: str = ''


@dataclasses.dataclass(frozen=True)
class Cell:
  """One point of an experiment grid, identified by a study and the settings of a run.

  Attributes:
    study: name of the study that the cell belongs to.
    run: settings that determine the cell's numbers, as JSON values by name. Together with the study
      they identify the cell.
    label: short description for the progress bar.
    experiment: the run with its specs parsed, for cells that are executed in this process.
    code: fingerprints of the modules that determine the numbers, which `run_grid_cells` fills in.
    expected: values that a stored result must have to be valid for this cell, such as the budget of
      parameters.
    rerun: whether the cell is executed although it is stored; its checkpoints are then ignored.

  """

  study: str
  run: dict
  label: str
  experiment: Any = dataclasses.field(default=None, repr=False, compare=False)
  code: Mapping[str, str] = dataclasses.field(default_factory=dict)
  expected: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  rerun: bool = False

  @property
  def record_key(self) -> str:
    """The hash of the study, the run and the code, which identifies the grid cell's record."""
    return cell_key(self.study, self.run, self.code)

  def accepts_record(self, record: dict | None) -> bool:
    """Whether a record exists and has this cell's expected values, such as the parameter budget.

    A record without a result is accepted too.
    """
    return record is not None and (not record['result'] or all(
      record['result'].get(name) == value for name, value in self.expected.items()))
