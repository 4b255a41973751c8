"""An HTML report of all stored results, with the verdicts on claims at the beginning.

  python -m experiments.report --runs=runs/quick

The command neither trains nor measures. It derives the verdicts on all claims and the tables and
figures of all studies from the stored records. A study whose records cannot be evaluated has a note
on the page. The page needs neither a network nor a server.
"""

import pathlib
import sys

from absl import flags as absl_flags

from experiments.claims import rule, verdict_table
from experiments.claims.current_records import load_records_of_current_code
from experiments.lab.launch import flags
from experiments.lab.results import notes, publish
from experiments.report import page, sections

TITLE = 'What did the Transformer fix?'


def define_flags() -> None:
  flags.define_runs_flag()
  absl_flags.DEFINE_string('title', TITLE, 'The title of the page.')


def main() -> None:
  """Writes <runs>/report.html, and prints the verdicts on claims and each study's first table."""
  folder = pathlib.Path(flags.FLAGS.runs)
  records, omitted = load_records_of_current_code(folder)
  claims, controls = rule.evaluate_claims(records), rule.evaluate_control_experiments(records)
  studies, unreadable = sections.study_sections(records, folder)
  errors = verdict_table.notes_on_failed_claim_evaluations([*claims, *controls], folder)
  faults = [*omitted, *errors, *unreadable]
  html = page.render_page(
    flags.FLAGS.title,
    sections.collect_provenance(records),
    list(studies.values()),
    sections.verdict_rows(claims),
    subtitle='Measured verdicts on claims about the Transformer, recurrence and convolution.',
    reproduction_commands='\n'.join(
      notes.shell_command(script, folder) for script in (*studies, 'report')),
    notes=[*faults, *verdict_table.notes_on_failed_or_undecided_controls(controls, folder)],
  )
  path = page.write_page(folder / 'report.html', html)
  tables = [
    verdict_table.make_verdict_table('Claims', claims),
    *(table for section in studies.values() for table in section.tables[:1]),
  ]
  publish.print_and_save_tables('report', tables, folder)
  for note in faults:
    print(note, file=sys.stderr)
  print(f'report: {path}')


if __name__ == '__main__':
  flags.run_command_line(main, define_flags, __doc__)
