"""The ledger: what is claimed, stated in advance, and what the stored records say of it.

  python -m experiments.claims --runs=runs/quick

A claim is data: a statement and its source, the study whose records settle it, an effect (one
number a seed or a round), and the relation to a threshold that is expected of it. One rule turns
the effect's mean, with its 95 % bootstrap interval, into a verdict:

  supported      the whole interval is on the expected side of the threshold
  contradicted   the whole interval is on the other side
  inconclusive   the threshold lies within the interval, or there is only one value
  not run        a record that the effect needs is missing
  void           a control of the study did not hold: what must fail did not fail, say

A control is a claim too, which must hold for any claim of its study to count.
"""

import dataclasses
from collections.abc import Iterable

from experiments.launch import flags
from experiments.ledger import CLAIMS, CONTROLS
from experiments.ledger.claim import RELATIONS, Claim
from experiments.ledger.effects import Records


@dataclasses.dataclass(frozen=True)
class Finding:
  """A claim with what the records say of it."""

  claim: Claim
  verdict: str
  samples: tuple[float, ...] = ()
  seeds: int = 0
  failed: tuple[str, ...] = ()  # controls

  @property
  def interval(self):
    """The effect's mean with its bootstrap interval; None: not run."""
    import numpy as np

    from experiments.results.statistics import bootstrap_interval

    return bootstrap_interval(np.mean, self.samples) if self.samples else None


def judge(claim: Claim, records: Records) -> Finding:
  """One claim by the rule above, controls aside."""
  own = [record for record in records if record['study'] == claim.study]
  samples = claim.effect(own)
  if not samples:
    return Finding(claim, 'not run')
  finding = Finding(claim, 'inconclusive', tuple(samples), seeds_of(own))
  interval, holds = finding.interval, RELATIONS[claim.relation]
  if interval.known:
    sides = {holds(bound, claim.threshold) for bound in (interval.low, interval.high)}
    if len(sides) == 1:
      verdict = 'supported' if sides.pop() else 'contradicted'
      return dataclasses.replace(finding, verdict=verdict)
  return finding


def seeds_of(records: Records) -> int:
  """How many seeds the records of a study rest on, at least; counts need none."""
  counts = [len(r['run']['seeds']) for r in records if 'seeds' in r['run']]
  return min(counts, default=len({r['run'].get('seed') for r in records} - {None}))


def findings(records: Records, claims=CLAIMS, controls=CONTROLS) -> list[Finding]:
  """All claims; those of a study are void if one of its controls was run and did not hold."""
  failed: dict[str, list[str]] = {}
  for control in controls:
    if judge(control, records).verdict not in ('supported', 'not run'):
      failed.setdefault(control.study, []).append(control.name)
  found = (judge(claim, records) for claim in claims)
  return [
    dataclasses.replace(f, verdict='void', failed=tuple(failed[f.claim.study]))
    if f.claim.study in failed and f.verdict != 'not run' else f
    for f in found
  ]


def verdicts(found: Iterable[Finding]):
  """Rows of the report's scoreboard."""
  from experiments.results.page import Verdict

  return [
    Verdict(
      f.claim.statement,
      f.verdict,
      expectation(f),
      f.interval,
      f.seeds or None,
      f.claim.source,
    )
    for f in found
  ]


def expectation(finding: Finding) -> str:
  """The effect in words: its unit and what was expected of it, or which control failed."""
  claim = finding.claim
  void = f'; control failed: {", ".join(finding.failed)}' if finding.failed else ''
  return f'{claim.unit}, expected {claim.relation} {claim.threshold:g}{void}'


def table(found: Iterable[Finding]):
  """The ledger as a table."""
  from experiments.results.table import Table

  return Table(
    'Claims',
    ('claim', 'verdict', 'effect', 'expected', 'seeds', 'source'),
    [
      (f.claim.statement, f.verdict, f.interval, expectation(f), f.seeds or None, f.claim.source)
      for f in found
    ],
    'Effects are means over seeds (of times: over repetitions) with 95 % bootstrap intervals. With '
    'few seeds such an interval is narrow: it spans what was seen, not what could have been.',
  )


def main() -> None:
  """Prints the ledger, and the controls that it rests on."""
  from experiments.results import publish
  from experiments.results.store import Store

  records = Store(flags.FLAGS.runs).records()
  controls = [judge(control, records) for control in CONTROLS]
  ledger = [table(findings(records)), dataclasses.replace(table(controls), title='Controls')]
  publish.tables('claims', ledger, flags.FLAGS.runs)


if __name__ == '__main__':
  flags.main(main, flags.define_store, __doc__)
