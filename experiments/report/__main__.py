"""The report: everything in a store as one HTML page that opens with the verdicts.

  python -m experiments.report --runs=runs/quick

It trains nothing and measures nothing: it reads the records, asks each study for its tables and
figures, and the ledger for its verdicts. A study whose records cannot be read is a note on the
page. The page needs no network and no server.
"""

import pathlib
import sys

from absl import flags as absl_flags

from experiments.claims import ledger, rule
from experiments.claims.stored import stored
from experiments.lab.launch import flags
from experiments.lab.results import notes, publish
from experiments.report import page, sections

TITLE = 'What did the Transformer fix?'


def define() -> None:
  """The report's flags."""
  flags.define_store()
  absl_flags.DEFINE_string('title', TITLE, 'What the page is called.')


def main() -> None:
  """Writes <runs>/report.html, prints the ledger and the first table of each study."""
  folder = pathlib.Path(flags.FLAGS.runs)
  records, omitted = stored(folder)
  found, controls = rule.findings(records), rule.judged(records)
  studies, unreadable = sections.sections(records, folder)
  wrong = [*omitted, *ledger.errors([*found, *controls], folder), *unreadable]
  path = page.write(
    folder / 'report.html',
    flags.FLAGS.title,
    sections.provenance(records),
    list(studies.values()),
    sections.verdicts(found),
    subtitle='Claims about the Transformer, recurrence and convolution, as measured here.',
    reproduce='\n'.join(notes.command(script, folder) for script in (*studies, 'report')),
    notes=[*wrong, *ledger.advice(controls, folder)],
  )
  tables = [ledger.table(found), *(table for one in studies.values() for table in one.tables[:1])]
  publish.tables('report', tables, folder)
  for note in wrong:
    print(note, file=sys.stderr)
  print(f'report: {path}')


if __name__ == '__main__':
  flags.main(main, define, __doc__)
