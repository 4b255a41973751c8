"""The table of verdicts on claims, and notes on failed or inconclusive control experiments."""

from collections.abc import Iterable

from experiments.claims.rule import Finding
from experiments.lab.results import notation, notes
from experiments.lab.results.table import Table


def describe_expected_effect(finding: Finding) -> str:
  """Returns the unit and the expected range of an effect as text, such as 'score, expected > 0'."""
  claim = finding.claim
  return f'{claim.unit}, expected {claim.relation} {claim.threshold:g}'


def make_verdict_table(title: str, findings: Iterable[Finding]) -> Table:
  return Table(
    title,
    ('statement', 'verdict', 'effect', 'expected effect', 'seeds', 'source'),
    [
      (f.claim.statement,
       f'{f.verdict}: {f.verdict_explanation}' if f.verdict_explanation else f.verdict,
       f.confidence_interval, describe_expected_effect(f), f.seeds or None, f.claim.source)
      for f in findings
    ],
    'Effects are means over seeds, or over repetitions for times, with 95 % bootstrap intervals. '
    'With few seeds such intervals are too narrow, because they cannot exceed the range of the '
    'measured values.',
  )


def notes_on_failed_or_undecided_controls(
  control_results: Iterable[Finding], folder
) -> list[notes.Note]:
  """Returns a note for each control experiment that failed or was inconclusive, with advice."""
  return [
    note_on_failed_or_undecided_control(control, folder) for control in control_results
    if control.verdict in ('contradicted', 'inconclusive')
  ]


def note_on_failed_or_undecided_control(control_result: Finding, folder) -> notes.Note:
  """Returns a note on a failed or inconclusive control experiment, with a command to repeat it."""
  claim, value = control_result.claim, control_result.confidence_interval
  if claim.exact:  # All values must satisfy the relation, so that the worst value is reported.
    value = (min if claim.relation == '>' else max)(control_result.samples)
  result = (f'Its effect is {notation.format_table_cell(value)} ({claim.unit}), but '
            f'{claim.relation} {claim.threshold:g} is required')
  if control_result.verdict == 'contradicted':
    return notes.Note(
      f'Control {claim.name} failed: "{claim.statement}". {result}. The claims of {claim.study} '
      f'are therefore void. {claim.remedy.advice}, with the original flags',
      notes.shell_command(claim.study, folder, *claim.remedy.flags),
    )
  seeds = f'--seeds={max(3, 2 * control_result.seeds)}'
  advice, flags = 'Run the study with more seeds or cells', (seeds,)
  if claim.remedy.flags:
    advice, flags = claim.remedy
  return notes.Note(
    f'Control {claim.name} is undecided: "{claim.statement}". {result}. {advice}, with the '
    'original flags',
    notes.shell_command(claim.study, folder, *flags),
  )


def notes_on_failed_claim_evaluations(findings: Iterable[Finding], folder) -> list[notes.Note]:
  """Returns a note for each study in which the evaluation of a claim or control raised an error."""
  reasons = {}
  for finding in findings:
    if finding.error:
      reasons.setdefault(finding.claim.study, finding.error)
  return [notes.unreadable_records_note(study, reason, folder) for study, reason in reasons.items()]
