"""A claim: what is stated before it is measured, and the relation that is expected of it."""

import dataclasses
import operator
from typing import NamedTuple

from experiments.lab.evidence.effects import Effect, calibration

RELATIONS = {'>': operator.gt, '<': operator.lt}
VASWANI = 'Vaswani et al. 2017'


class Remedy(NamedTuple):
  """What to do about a control that failed: a sentence without its end, and flags of the study."""

  words: str
  flags: tuple[str, ...] = ()


LOOK = Remedy('A task, a layer or a record is not as it should be. The tables show in which cell')
MEASURE_AGAIN = Remedy('Measure again when nothing else runs on the machine', ('--retry',))


@dataclasses.dataclass(frozen=True)
class Claim:
  """Stated before it is measured: `effect` is expected to be `relation` than `threshold`.

  A control may be `exact`: it is computed and not estimated, so that every value has to be on the
  expected side. Its `remedy` is what to do when it fails.
  """

  name: str
  statement: str
  source: str
  study: str
  effect: Effect
  unit: str
  relation: str
  threshold: float
  exact: bool = False
  remedy: Remedy = LOOK


def calibrated(study: str) -> tuple[Claim, Claim]:
  """The controls of every study that trains: its oracle, and who does not look."""
  words = study.replace('_', ' ')
  return (
    Claim(
      f'oracle-{study}', f'Whoever computes the answer from the source is right in {words}',
      'control', study, calibration('oracle'), 'score', '>', 0.999, exact=True,
    ),
    Claim(
      f'guess-{study}', f'Whoever does not look at the source scores chance in {words}',
      'control', study, calibration('guess'), 'score', '<', 0.05,
    ),
  )
