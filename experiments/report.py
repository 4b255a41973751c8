"""The report: everything in a store as one HTML page that opens with the verdicts.

  python -m experiments.report --runs=runs/quick

It trains nothing and measures nothing: it reads the records, asks each study for its tables and
figures, and the ledger for its verdicts. A study whose records cannot be read is a note on the
page. The page needs no network and no server.
"""

import pathlib
import re
import sys

from absl import flags as absl_flags

from experiments import (
  bottleneck,
  claims,
  compile_tpu,
  complexity,
  gradient_flow,
  ladder,
  parallelism,
  pronouns,
  receptive_field,
  retention,
  speed,
  state_tracking,
  translation,
  variations,
)
from experiments.launch import flags
from experiments.results import notes

STUDIES = {
  module.STUDY: module for module in (
    complexity, parallelism, gradient_flow, receptive_field, retention, ladder, state_tracking,
    bottleneck, translation, variations, pronouns, speed, compile_tpu,
  )
}
TITLE = 'What did the Transformer fix?'


def define() -> None:
  """The report's flags."""
  flags.define_store()
  absl_flags.DEFINE_string('title', TITLE, 'What the page is called.')


def section(name: str, records):
  """A study's part of the page: what it asks, its tables, its figure."""
  from experiments.results import figures
  from experiments.results.page import Picture, Section

  study = STUDIES[name]
  heading, _, rest = study.__doc__.partition('\n')
  rest = re.sub(r'(?m)^ +(python -m .*)$', r'`\1`', rest)
  tables, panels = study.report(records)
  pictures = []
  if panels:
    drawn = figures.image(figures.draw(panels, order=layers_of(records)))
    pictures = [Picture(drawn, f'{heading} Bands are 95 % intervals.')]
  return Section(heading, rest.strip(), tables, pictures)


def layers_of(records) -> list[str]:
  """Every layer in the records, in one order, so that it looks the same in every figure."""
  found = {record['run'].get('layer') for record in records} - {None}
  return sorted(found.union(*(record['run'].get('layers', ()) for record in records)))


def provenance(records) -> dict[str, object]:
  """Where the numbers come from."""
  def each(field):
    return sorted({str(record[field]) for record in records})

  versions = {tuple(sorted(record['versions'].items())) for record in records}
  return {
    'cells': len(records),
    'not finished': sum(record['status'] != 'finished' for record in records),
    'compute': f'{sum(record["seconds"] for record in records) / 60:.1f} minutes',
    'device': each('device'),
    'commit': each('commit'),
    'versions': [', '.join(f'{name} {version}' for name, version in v) for v in sorted(versions)],
  }


def sections(records, folder: pathlib.Path):
  """Each study's part of the page, and a note on each of which the records could not be read."""
  from experiments.results.page import Section

  made, said = {}, []
  for name in STUDIES:
    if own := [record for record in records if record['study'] == name]:
      made[name], reason = notes.attempt(section, name, own)
      if reason:
        note = notes.unreadable(name, reason, folder)
        heading = STUDIES[name].__doc__.partition('\n')[0]
        made[name] = Section(heading, f'{note.text}: `{note.command}`.')
        said.append(note)
  return made, said


def main() -> None:
  """Writes <runs>/report.html, prints the ledger and the first table of each study."""
  from experiments.results import page, publish

  folder = pathlib.Path(flags.FLAGS.runs)
  records = claims.stored(folder)
  found, controls = claims.findings(records), claims.judged(records)
  studies, unreadable = sections(records, folder)
  wrong = [*claims.errors([*found, *controls], folder), *unreadable]
  path = page.write(
    folder / 'report.html',
    flags.FLAGS.title,
    provenance(records),
    list(studies.values()),
    claims.verdicts(found),
    subtitle='Claims about the Transformer, recurrence and convolution, as measured here.',
    reproduce='\n'.join(notes.command(script, folder) for script in (*studies, 'report')),
    notes=[*wrong, *claims.advice(controls, folder)],
  )
  tables = [claims.table(found), *(table for one in studies.values() for table in one.tables[:1])]
  publish.tables('report', tables, folder)
  for note in wrong:
    print(note, file=sys.stderr)
  print(f'report: {path}')


if __name__ == '__main__':
  flags.main(main, define, __doc__)
