"""The report: everything in a store as one HTML page that opens with the verdicts.

  python -m experiments.report --runs=runs/quick

It trains nothing and measures nothing: it reads the records, asks each study for its tables and
figures, and the ledger for its verdicts. The page needs no network and no server.
"""

import pathlib
import re

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
from experiments.launch.errors import BadInput

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


def main() -> None:
  """Writes <runs>/report.html, prints the ledger and the first table of each study."""
  from experiments.results import page, publish
  from experiments.results.store import Store

  folder = pathlib.Path(flags.FLAGS.runs)
  records = Store(folder).records()
  if not records:
    raise BadInput(f'no results in {folder}: run a study first, such as python -m '
                   f'experiments.retention --preset=quick --runs={folder}')
  found = claims.findings(records)
  studies = {name: [r for r in records if r['study'] == name] for name in STUDIES}
  studies = {name: own for name, own in studies.items() if own}
  path = page.write(
    folder / 'report.html',
    flags.FLAGS.title,
    provenance(records),
    [section(name, own) for name, own in studies.items()],
    claims.verdicts(found),
    subtitle='Claims about the Transformer, recurrence and convolution, as measured here.',
    reproduce='\n'.join(
      [f'python -m experiments.{name} --runs={folder}' for name in studies]
      + [f'python -m experiments.report --runs={folder}']
    ),
  )
  tables = [claims.table(found), *(STUDIES[n].report(own)[0][0] for n, own in studies.items())]
  publish.tables('report', tables, folder)
  print(f'report: {path}')


if __name__ == '__main__':
  flags.main(main, define, __doc__)
