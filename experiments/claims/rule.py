"""Rules that derive the verdict on a claim, which is 'void' if a control experiment failed.

The module docstring of `experiments.claims.__main__`, which --help prints, defines the verdicts.
"""

import dataclasses
import functools
from collections.abc import Sequence

from experiments.claims.registry import CLAIMS, CONTROLS
from experiments.lab import optional
from experiments.lab.evidence.claim import RELATIONS, Claim
from experiments.lab.evidence.effects import Records
from experiments.lab.results import notes
from experiments.lab.results.statistics import bootstrap_confidence_interval

np = optional.lazy_module('numpy')
MORE_SEEDS = '--seeds=3'
ROUNDING = 1e-12  # The relative rounding error of the mean of an effect in float64.


@dataclasses.dataclass(frozen=True)
class Finding:
  """The verdict on a claim, with its measured values and the failed control experiments."""

  claim: Claim
  verdict: str
  samples: tuple[float, ...] = ()
  seeds: int = 0
  failed_controls: tuple[str, ...] = ()
  undecided_controls: tuple[str, ...] = ()
  error: str = ''

  @functools.cached_property
  def confidence_interval(self):
    """The mean measured effect with its bootstrap interval, or None if no effect was measured."""
    return bootstrap_confidence_interval(np.mean, [self.samples]) if self.samples else None

  @property
  def verdict_explanation(self) -> str:
    """A short explanation of the verdict, or an empty text if none is needed."""
    remarks = [self.error] if self.error else []
    if self.verdict == 'inconclusive' and len(self.samples) == 1:
      remarks.append(f'only one seed; use {MORE_SEEDS}' if self.seeds < 2 else 'only one value')
    if self.failed_controls:
      remarks.append(f'control failed: {", ".join(self.failed_controls)}')
    if self.undecided_controls:
      remarks.append(f'control undecided: {", ".join(self.undecided_controls)}')
    return '; '.join(remarks)


def evaluate_claim(claim: Claim, records: Records) -> Finding:
  """Evaluates a claim on its measured values alone, without regard to control experiments."""
  records = [record for record in records if record['study'] == claim.study]
  samples, error = notes.call_or_describe_failure(claim.effect, records)
  if error:
    return Finding(claim, 'error', error=error)
  if not samples:
    return Finding(claim, 'not run')
  finding = Finding(claim, 'inconclusive', tuple(samples), smallest_seed_count(records))
  verdict = verdict_without_confidence_interval if claim.exact else verdict_from_confidence_interval
  return dataclasses.replace(finding, verdict=verdict(finding))


def verdict_from_confidence_interval(finding: Finding) -> str:
  """Returns the verdict from a comparison of the confidence interval with the threshold."""
  claim, interval = finding.claim, finding.confidence_interval
  # The tolerance absorbs rounding errors in the mean of values that all equal the threshold.
  tolerance = ROUNDING * abs(claim.threshold)
  below = interval.high < claim.threshold - tolerance
  above = interval.low > claim.threshold + tolerance
  if not (below or above):  # This includes an interval without bounds.
    return 'inconclusive'
  holds = RELATIONS[claim.relation](interval.estimate, claim.threshold)
  return 'supported' if holds else 'contradicted'


def verdict_without_confidence_interval(finding: Finding) -> str:
  """Returns the verdict from a comparison of each measured value with the claim's threshold."""
  claim, samples = finding.claim, finding.samples
  if all(RELATIONS[claim.relation](value, claim.threshold) for value in samples):
    return 'supported'
  failing = {value for value in samples if not RELATIONS[claim.relation](value, claim.threshold)}
  return 'inconclusive' if failing == {claim.threshold} else 'contradicted'


def smallest_seed_count(records: Records) -> int:
  """Returns the smallest number of seeds over all grid cells.

  If each record has a single seed, this is the number of distinct seeds of all records.
  """
  counts = [len(r['run']['seeds']) for r in records if 'seeds' in r['run']]
  return min(counts, default=len({r['run'].get('seed') for r in records} - {None}))


def evaluate_control_experiments(records: Records, control_experiments=CONTROLS) -> list[Finding]:
  return [evaluate_claim(control, records) for control in control_experiments]


def evaluate_claims(records: Records, claims=CLAIMS, control_experiments=CONTROLS) -> list[Finding]:
  """Returns a finding for each claim, with the verdict 'void' if a control experiment failed.

  A control experiment affects only the claims of its own study.

  Args:
    records: The records of all studies.
    claims: The claims.
    control_experiments: The claims that serve as control experiments.

  Returns:
    One finding for each claim.
  """
  findings = evaluate_control_experiments(records, control_experiments)
  return [
    void_verdict_if_controls_failed(evaluate_claim(claim, records), findings) for claim in claims]


def void_verdict_if_controls_failed(
  finding: Finding, control_results: Sequence[Finding]
) -> Finding:
  """Adds failed control experiments to a finding, and sets its verdict to 'void' if any failed."""
  if finding.verdict in ('not run', 'error'):
    return finding

  def names_of_control_experiments_with_verdict(verdicts: Sequence[str]) -> tuple[str, ...]:
    return tuple(
      control.claim.name for control in control_results
      if control.claim.study == finding.claim.study and control.verdict in verdicts)

  failed = names_of_control_experiments_with_verdict(['contradicted'])
  return dataclasses.replace(
    finding, verdict='void' if failed else finding.verdict, failed_controls=failed,
    undecided_controls=names_of_control_experiments_with_verdict(['inconclusive', 'error']))
