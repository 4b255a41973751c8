"""Verdicts on claims about the Transformer, which were stated before the experiments.

  python -m experiments.claims --runs=runs/quick

A claim has a statement, its source, the study whose records decide it, an effect (one number per
seed or repetition), and the expected relation of the effect to a threshold. The verdict depends on
the mean of the effect and its 95 % bootstrap interval:

  supported      the complete interval is on the expected side of the threshold
  contradicted   the complete interval is on the other side
  inconclusive   the interval contains the threshold, or there is only one value
  not run        a record that the effect needs is missing
  void           a control of the study failed, so that its records are not valid evidence
  error          the effect could not be computed from the records

A control is a claim about the validity of the experiment, such as an oracle with a perfect score. A
control fails if its verdict is contradicted, and all claims of its study are then void. If a
control is inconclusive, the claims keep their verdicts, and the table names the control. The effect
of an exact control is computed and not estimated, so that every value must be on the expected side,
and a single value is sufficient.
"""

import pathlib
import sys

from experiments.claims import rule, verdict_table
from experiments.claims.current_records import load_records_of_current_code
from experiments.lab.launch import flags
from experiments.lab.results import publish


def main() -> None:
  """Prints the verdicts on all claims and validity checks, and advice on failed checks."""
  folder = pathlib.Path(flags.FLAGS.runs)
  records, omitted = load_records_of_current_code(folder)
  claims, controls = rule.evaluate_claims(records), rule.evaluate_control_experiments(records)
  tables = [
    verdict_table.make_verdict_table('Claims', claims),
    verdict_table.make_verdict_table('Controls', controls),
  ]
  publish.print_and_save_tables('claims', tables, folder)
  for note in verdict_table.notes_on_failed_or_undecided_controls(controls, folder):
    print(f'{note}\n')
  failures = verdict_table.notes_on_failed_claim_evaluations([*claims, *controls], folder)
  for note in (*omitted, *failures):
    print(note, file=sys.stderr)


define_flags = flags.define_runs_flag

if __name__ == '__main__':
  flags.run_command_line(main, define_flags, __doc__)
