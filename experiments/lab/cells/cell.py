"""A cell, one point of a grid, and what executing it came to."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from experiments.lab.results.store import key_of

EXHAUSTED = re.compile(r'RESOURCE_EXHAUSTED|out of memory', re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Outcome:
  """What executing a cell came to."""

  result: dict
  status: str = 'finished'
  reason: str = ''


@dataclasses.dataclass(frozen=True)
class Cell:
  """One point of a grid.

  Attributes:
    study: the study that needs it.
    run: what decides its numbers, as JSON values: with the study, its identity.
    label: a few words for the progress bar.
    experiment: the run with its specs parsed, where the cell is executed in this process.
    code: the fingerprints of the code that makes its numbers; the launch fills them in.
    expected: what a stored result must say to be this cell's, such as the budget of parameters.
    anew: whether it is made again though it is stored, so that no checkpoint counts.

  """

  study: str
  run: dict
  label: str
  experiment: Any = dataclasses.field(default=None, repr=False, compare=False)
  code: Mapping[str, str] = dataclasses.field(default_factory=dict)
  expected: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  anew: bool = False

  @property
  def key(self) -> str:
    """What the cell is stored under."""
    return key_of(self.study, self.run, self.code)

  def answered_by(self, record: dict | None) -> bool:
    """Whether a stored record is this cell's: there is one, and it says what is expected."""
    return record is not None and (not record['result'] or all(
      record['result'].get(name) == value for name, value in self.expected.items()))
