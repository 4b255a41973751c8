"""The ledger: what is claimed, stated in advance, and what the stored records say of it.

  python -m experiments.claims --runs=runs/quick

A claim is data: a statement and its source, the study whose records settle it, an effect (one
number a seed or a round), and the relation to a threshold that is expected of it. One rule turns
the effect's mean, with its 95 % bootstrap interval, into a verdict:

  supported      the whole interval is on the expected side of the threshold
  contradicted   the whole interval is on the other side
  inconclusive   the threshold lies within the interval or on its edge, or there is only one value
  not run        a record that the effect needs is missing
  void           a control of the study failed: what must fail did not fail, say
  error          the effect could not be computed from the records

A control is a claim too, on which the claims of its study rest. It fails if it is contradicted. If
it is inconclusive, the claims keep their verdicts, and it is named beside them. Of a control that
is computed exactly, every value must be on the expected side, and one value is enough.
"""

import dataclasses
import functools
import pathlib
import sys
from collections.abc import Iterable, Sequence

from experiments.launch import flags
from experiments.launch.errors import BadInput
from experiments.ledger import CLAIMS, CONTROLS
from experiments.ledger.claim import RELATIONS, Claim
from experiments.ledger.effects import Records
from experiments.results import notes

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
    import numpy as np

    from experiments.results.statistics import bootstrap_interval

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
      f.reason,
    )
    for f in found
  ]


def expectation(finding: Finding) -> str:
  """The effect in words: its unit and what was expected of it."""
  claim = finding.claim
  return f'{claim.unit}, expected {claim.relation} {claim.threshold:g}'


def table(found: Iterable[Finding]):
  """The ledger as a table."""
  from experiments.results.table import Table

  return Table(
    'Claims',
    ('claim', 'verdict', 'effect', 'expected', 'seeds', 'source'),
    [
      (f.claim.statement, f'{f.verdict}: {f.reason}' if f.reason else f.verdict, f.interval,
       expectation(f), f.seeds or None, f.claim.source)
      for f in found
    ],
    'Effects are means over seeds (of times: over repetitions) with 95 % bootstrap intervals. With '
    'few seeds such an interval is narrow: it spans what was seen, not what could have been.',
  )


def advice(controls: Iterable[Finding], folder) -> list[notes.Note]:
  """Why claims are void or rest on an undecided control, and what to do about each control."""
  return [
    advised(control, folder) for control in controls
    if control.verdict in ('contradicted', 'inconclusive')
  ]


def advised(control: Finding, folder) -> notes.Note:
  """The note on a control that failed or is undecided."""
  from experiments.results import notation

  claim, value = control.claim, control.interval
  if claim.exact:  # the worst one of what must hold without exception
    value = (min if claim.relation == '>' else max)(control.samples)
  came = (f'"{claim.statement}" came to {notation.cell(value)} ({claim.unit}), and '
          f'{claim.relation} {claim.threshold:g} is needed')
  if control.verdict == 'contradicted':
    return notes.Note(
      f'Control {claim.name} failed: {came}. So the claims of {claim.study} are void. '
      f'{claim.remedy.words}, with the other flags that the study had',
      notes.command(claim.study, folder, *claim.remedy.flags),
    )
  seeds = f'--seeds={max(3, 2 * control.seeds)}'
  words, settling = 'More seeds or more cells can settle it', (seeds,)
  if claim.remedy.flags:
    words, settling = claim.remedy
  return notes.Note(
    f'Control {claim.name} is undecided: {came}. {words}, with the other flags that the study had',
    notes.command(claim.study, folder, *settling),
  )


def errors(found: Iterable[Finding], folder) -> list[notes.Note]:
  """A note for each study of which a claim or a control could not be computed."""
  reasons = {}
  for finding in found:
    if finding.error:
      reasons.setdefault(finding.claim.study, finding.error)
  return [notes.unreadable(study, reason, folder) for study, reason in reasons.items()]


def stored(folder: pathlib.Path) -> list[dict]:
  """The records of a folder; a BadInput where there are none."""
  from experiments.results.store import Store, broken_link

  records = Store(folder).records()
  if not records:
    why = broken_link(folder) or f'no results in {folder}'
    raise BadInput(f'{why}: run a study first, such as '
                   f'{notes.command("retention", folder, "--preset=quick")}')
  return records


def main() -> None:
  """Prints the ledger, the controls that it rests on, and what to do about those that failed."""
  from experiments.results import publish

  folder = pathlib.Path(flags.FLAGS.runs)
  records = stored(folder)
  found, controls = findings(records), judged(records)
  ledger = [table(found), dataclasses.replace(table(controls), title='Controls')]
  publish.tables('claims', ledger, folder)
  for note in advice(controls, folder):
    print(f'{note}\n')
  for note in errors([*found, *controls], folder):
    print(note, file=sys.stderr)


if __name__ == '__main__':
  flags.main(main, flags.define_store, __doc__)
