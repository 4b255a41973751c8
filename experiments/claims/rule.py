"""The rule that turns an effect into a verdict, and a failed control into void claims.

What each verdict means is said in `experiments.claims.__main__`, which --help prints.
"""

import dataclasses
import functools
from collections.abc import Sequence

from experiments.claims.stated import CLAIMS, CONTROLS
from experiments.lab import optional
from experiments.lab.evidence.claim import RELATIONS, Claim
from experiments.lab.evidence.effects import Records
from experiments.lab.results import notes
from experiments.lab.results.statistics import bootstrap_interval

np = optional.later('numpy')
SETTLING = '--seeds=3'
ROUNDING = 1e-12  # of float64, in sums of as many values as an effect has


@dataclasses.dataclass(frozen=True)
class Finding:
  """A claim with what the records say of it."""

  claim: Claim
  verdict: str
  samples: tuple[float, ...] = ()
  seeds: int = 0
  failed: tuple[str, ...] = ()  # controls
  undecided: tuple[str, ...] = ()  # controls
  error: str = ''

  @functools.cached_property
  def interval(self):
    """The effect's mean with its bootstrap interval; None: not run."""
    return bootstrap_interval(np.mean, self.samples) if self.samples else None

  @property
  def reason(self) -> str:
    """What a reader needs to know of the verdict, in a few words; '': nothing."""
    said = [self.error] if self.error else []
    if self.verdict == 'inconclusive' and len(self.samples) == 1:
      said.append(f'one seed; {SETTLING} can settle it' if self.seeds < 2 else 'one value')
    for fate, names in (('failed', self.failed), ('undecided', self.undecided)):
      said += [f'control {fate}: {", ".join(names)}'] if names else []
    return '; '.join(said)


def judge(claim: Claim, records: Records) -> Finding:
  """One claim by the rule above, controls aside."""
  own = [record for record in records if record['study'] == claim.study]
  samples, error = notes.attempt(claim.effect, own)
  if error:
    return Finding(claim, 'error', error=error)
  if not samples:
    return Finding(claim, 'not run')
  finding = Finding(claim, 'inconclusive', tuple(samples), seeds_of(own))
  return dataclasses.replace(finding, verdict=exactly(finding) if claim.exact else surely(finding))


def surely(finding: Finding) -> str:
  """The verdict by the interval of the effect; a threshold on its edge lies within it."""
  claim, interval = finding.claim, finding.interval
  slack = ROUNDING * abs(claim.threshold)  # a mean of equal values is not exactly their value
  if not (interval.high < claim.threshold - slack or interval.low > claim.threshold + slack):
    return 'inconclusive'  # also where there are no bounds
  holds = RELATIONS[claim.relation](interval.mean, claim.threshold)
  return 'supported' if holds else 'contradicted'


def exactly(finding: Finding) -> str:
  """The verdict by every single value of an effect that is computed and not estimated."""
  claim, samples = finding.claim, finding.samples
  if all(RELATIONS[claim.relation](sample, claim.threshold) for sample in samples):
    return 'supported'
  wrong = [s for s in samples if not RELATIONS[claim.relation](s, claim.threshold)]
  return 'inconclusive' if set(wrong) == {claim.threshold} else 'contradicted'


def seeds_of(records: Records) -> int:
  """How many seeds the records of a study rest on, at least; counts need none."""
  counts = [len(r['run']['seeds']) for r in records if 'seeds' in r['run']]
  return min(counts, default=len({r['run'].get('seed') for r in records} - {None}))


def judged(records: Records, controls=CONTROLS) -> list[Finding]:
  """All controls."""
  return [judge(control, records) for control in controls]


def findings(records: Records, claims=CLAIMS, controls=CONTROLS) -> list[Finding]:
  """All claims; those of a study are void if one of its controls was run and failed."""
  found = judged(records, controls)
  return [resting(judge(claim, records), found) for claim in claims]


def resting(finding: Finding, controls: Sequence[Finding]) -> Finding:
  """A claim's finding with what it rests on: what has no verdict rests on nothing."""
  if finding.verdict in ('not run', 'error'):
    return finding

  def named(*verdicts: str) -> tuple[str, ...]:
    return tuple(c.claim.name for c in controls
                 if c.claim.study == finding.claim.study and c.verdict in verdicts)

  failed, undecided = named('contradicted'), named('inconclusive', 'error')
  return dataclasses.replace(
    finding, verdict='void' if failed else finding.verdict, failed=failed, undecided=undecided)
