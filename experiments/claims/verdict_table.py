"""The table of verdicts on claims, and notes about failed or undecided controls of a study."""

from collections.abc import Iterable

from experiments.claims.rule import Finding
from experiments.lab.results import notation, notes
from experiments.lab.results.table import Table


def describe_expected_effect(finding: Finding) -> str:
  """Returns a phrase with the unit of the effect and its expected relation to the threshold."""
  claim = finding.claim
  return f'{claim.unit}, expected {claim.relation} {claim.threshold:g}'


def make_verdict_table(title: str, findings: Iterable[Finding]) -> Table:
  return Table(
    title,
    ('statement', 'verdict', 'effect', 'expected effect', 'seeds', 'source'),
    [
      (f.claim.statement, f'{f.verdict}: {f.reason}' if f.reason else f.verdict, f.interval,
       describe_expected_effect(f), f.seeds or None, f.claim.source)
      for f in findings
    ],
    'Effects are means over seeds, or over repetitions for times, with 95 % bootstrap intervals. '
    'With few seeds such intervals are too narrow, because they cannot exceed the range of the '
    'measured values.',
  )


def unsupported_control_notes(control_findings: Iterable[Finding], folder) -> list[notes.Note]:
  """Returns a note with a remedy for each failed or undecided control of a study."""
  return [
    unsupported_control_note(control, folder) for control in control_findings
    if control.verdict in ('contradicted', 'inconclusive')
  ]


def unsupported_control_note(control: Finding, folder) -> notes.Note:
  """Returns a note about a failed or undecided control of a study, with a repairing command."""
  claim, value = control.claim, control.interval
  if claim.exact:  # All values must satisfy the relation, so that the worst value is reported.
    value = (min if claim.relation == '>' else max)(control.samples)
  result = (f'Its effect is {notation.format_table_cell(value)} ({claim.unit}), but '
            f'{claim.relation} {claim.threshold:g} is required')
  if control.verdict == 'contradicted':
    return notes.Note(
      f'Control {claim.name} failed: "{claim.statement}". {result}. The claims of {claim.study} '
      f'are therefore void. {claim.remedy.advice}, with the original flags',
      notes.shell_command(claim.study, folder, *claim.remedy.flags),
    )
  seeds = f'--seeds={max(3, 2 * control.seeds)}'
  advice, flags = 'Run the study with more seeds or cells', (seeds,)
  if claim.remedy.flags:
    advice, flags = claim.remedy
  return notes.Note(
    f'Control {claim.name} is undecided: "{claim.statement}". {result}. {advice}, with the '
    'original flags',
    notes.shell_command(claim.study, folder, *flags),
  )


def evaluation_error_notes(findings: Iterable[Finding], folder) -> list[notes.Note]:
  """Returns a note for each study with a claim or control whose effect raised an error."""
  reasons = {}
  for finding in findings:
    if finding.error:
      reasons.setdefault(finding.claim.study, finding.error)
  return [notes.unreadable_records_note(study, reason, folder) for study, reason in reasons.items()]
