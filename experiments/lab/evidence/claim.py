"""Defines `Claim`, a statement about a measured effect, and validity checks (controls)."""

import dataclasses
import operator
from typing import NamedTuple

from experiments.lab.evidence.effects import Effect, reference_predictor_score

RELATIONS = {'>': operator.gt, '<': operator.lt}
VASWANI = 'Vaswani et al. 2017'


class Remedy(NamedTuple):
  """Advice and command-line flags for running a study again after a failed validity check.

  The advice has no full stop.
  """

  advice: str
  flags: tuple[str, ...] = ()


INSPECT_TABLES = Remedy(
  'Find the incorrect task, layer or record in the tables, correct it and run the study again')
MEASURE_AGAIN = Remedy(
  'Repeat the measurement while no other program runs on the machine', ('--retry',))


@dataclasses.dataclass(frozen=True)
class Claim:
  """A statement that the mean of an effect is above or below a threshold.

  `relation` is '>' or '<'. A control may be `exact`, which means that its effect is computed and
  not estimated, so that every value must satisfy the relation. `remedy` is the advice if a control
  fails.
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
  remedy: Remedy = INSPECT_TABLES


def claims_about_oracle_and_baseline_scores(study: str) -> tuple[Claim, Claim]:
  """Returns the validity checks that require an oracle score of 1 and a baseline score of 0."""
  title = study.replace('_', ' ')
  return (
    Claim(
      f'oracle-{study}',
      f'The oracle, which computes the target from the source, scores 1 in {title}',
      'control', study, reference_predictor_score('oracle'), 'score', '>', 0.999, exact=True,
    ),
    Claim(
      f'baseline-{study}', f'The baseline, which ignores the source, scores 0 in {title}',
      'control', study, reference_predictor_score('baseline'), 'score', '<', 0.05,
    ),
  )
