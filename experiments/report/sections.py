"""Sections of the report about studies, and the provenance of the experiment records."""

import pathlib
import re
from collections.abc import Iterable

from experiments import STUDIES
from experiments.claims import verdict_table
from experiments.claims.registry import LOADED_STUDIES
from experiments.claims.rule import Finding
from experiments.lab.results import figures, notes
from experiments.report.page import Picture, Section, Verdict


def study_section(study_name: str, records):
  """Returns the report section of a study, with its question, tables and figure."""
  study = LOADED_STUDIES[study_name]
  heading, _, rest = study.question.partition('\n')
  rest = re.sub(r'(?m)^ +(python -m .*)$', r'`\1`', rest)
  tables, panels = study.report(records)
  pictures = []
  if panels:
    png = figures.encode_figure(figures.draw_figure(panels, curve_order=sorted_layers(records)))
    pictures = [Picture(png, f'{heading} Bands are 95 % confidence intervals.')]
  return Section(heading, rest.strip(), tables, pictures)


def sorted_layers(records) -> list[str]:
  """Returns the distinct layers of the records in sorted order.

  The position of a layer in this order determines the style of its curve.
  """
  layers = {record['run'].get('layer') for record in records} - {None}
  return sorted(layers.union(*(record['run'].get('layers', ()) for record in records)))


def collect_provenance(records) -> dict[str, object]:
  """Returns the number of records, and the devices, commits and library versions used for them."""
  def distinct_record_values(record_field):
    return sorted({str(record[record_field]) for record in records})

  versions = {tuple(sorted(record['versions'].items())) for record in records}
  return {
    'experiment cells': len(records),
    'unfinished cells': sum(record['status'] != 'finished' for record in records),
    'computation time': f'{sum(record["seconds"] for record in records) / 60:.1f} minutes',
    'device': distinct_record_values('device'),
    'commit': distinct_record_values('commit'),
    'versions': [', '.join(f'{name} {version}' for name, version in v) for v in sorted(versions)],
  }


def study_sections(records, folder: pathlib.Path):
  """Returns a mapping from study name to report section, and notes about unreadable records."""
  sections, faults = {}, []
  for name in STUDIES:
    if records_of_study := [record for record in records if record['study'] == name]:
      sections[name], reason = notes.call_or_describe_failure(study_section, name, records_of_study)
      if reason:
        note = notes.unreadable_records_note(name, reason, folder)
        heading = LOADED_STUDIES[name].question.partition('\n')[0]
        sections[name] = Section(heading, f'{note.text}: `{note.command}`.')
        faults.append(note)
  return sections, faults


def verdict_rows(findings: Iterable[Finding]) -> list[Verdict]:
  """Returns a row of the verdict table for each evaluated claim."""
  return [
    Verdict(
      f.claim.statement,
      f.verdict,
      verdict_table.describe_expected_effect(f),
      f.confidence_interval,
      f.seeds or None,
      f.claim.source,
      f.verdict_explanation,
    )
    for f in findings
  ]
