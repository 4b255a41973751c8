"""Each study's part of the page, and where the numbers come from."""

import pathlib
import re
from collections.abc import Iterable

from experiments import STUDIES
from experiments.claims import ledger
from experiments.claims.rule import Finding
from experiments.claims.stated import LOADED
from experiments.lab.results import figures, notes
from experiments.report.page import Picture, Section, Verdict


def section(name: str, records):
  """A study's part of the page: what it asks, its tables, its figure."""
  study = LOADED[name]
  heading, _, rest = study.question.partition('\n')
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
  made, said = {}, []
  for name in STUDIES:
    if own := [record for record in records if record['study'] == name]:
      made[name], reason = notes.attempt(section, name, own)
      if reason:
        note = notes.unreadable(name, reason, folder)
        heading = LOADED[name].question.partition('\n')[0]
        made[name] = Section(heading, f'{note.text}: `{note.command}`.')
        said.append(note)
  return made, said


def verdicts(found: Iterable[Finding]):
  """Rows of the report's scoreboard."""
  return [
    Verdict(
      f.claim.statement,
      f.verdict,
      ledger.expectation(f),
      f.interval,
      f.seeds or None,
      f.claim.source,
      f.reason,
    )
    for f in found
  ]
