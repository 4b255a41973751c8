"""A claim: what is stated before it is measured, and the relation that is expected of it."""

import dataclasses
import operator

from experiments.ledger.effects import Effect, calibration

RELATIONS = {'>': operator.gt, '<': operator.lt}
VASWANI = 'Vaswani et al. 2017'


@dataclasses.dataclass(frozen=True)
class Claim:
  """Stated before it is measured: `effect` is expected to be `relation` than `threshold`."""

  name: str
  statement: str
  source: str
  study: str
  effect: Effect
  unit: str
  relation: str
  threshold: float


def calibrated(study: str) -> tuple[Claim, Claim]:
  """The controls of every study that trains: its oracle, and who does not look."""
  words = study.replace('_', ' ')
  return (
    Claim(
      f'oracle-{study}', f'Whoever computes the answer from the source is right in {words}',
      'control', study, calibration('oracle'), 'score', '>', 0.999,
    ),
    Claim(
      f'guess-{study}', f'Whoever does not look at the source scores chance in {words}',
      'control', study, calibration('guess'), 'score', '<', 0.05,
    ),
  )
