"""The ledger of verdicts as a table, and what to do about controls that failed."""

from collections.abc import Iterable

from experiments.claims.rule import Finding
from experiments.lab.results import notation, notes
from experiments.lab.results.table import Table


def expectation(finding: Finding) -> str:
  """The effect in words: its unit and what was expected of it."""
  claim = finding.claim
  return f'{claim.unit}, expected {claim.relation} {claim.threshold:g}'


def table(found: Iterable[Finding]):
  """The ledger as a table."""
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
