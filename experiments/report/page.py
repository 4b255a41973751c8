"""Rendering of the report as a single self-contained HTML file.

The page begins with the verdicts and ends with the commands that reproduce them. Every table
includes its LaTeX and CSV source for use in a paper. All text is escaped, and a pair of backticks
in the text of a section marks code.
"""

import base64
import dataclasses
import os
import pathlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from experiments.lab import atomic, optional
from experiments.lab.results import escape, notation
from experiments.lab.results.notes import Note
from experiments.lab.results.statistics import Interval
from experiments.lab.results.table import Table

# The symbol of each verdict, in the order of the verdict counts on the page.
SIGNS = {
  'supported': '✓', 'contradicted': '✕', 'inconclusive': '?', 'void': '!', 'error': '⚠',
  'not run': '–',
}


@dataclasses.dataclass(frozen=True)
class Verdict:
  """A row of the verdict table, with the statement of a claim, the verdict and the effect."""

  statement: str
  verdict: str
  effect: str = ''
  interval: Interval | None = None
  seeds: int | None = None
  source: str = ''
  reason: str = ''

  def __post_init__(self):
    if self.verdict not in SIGNS:
      raise ValueError(f'verdict {self.verdict!r} is not one of {tuple(SIGNS)}')


@dataclasses.dataclass(frozen=True)
class Picture:
  """A figure as PNG bytes, with a caption that is also the alternative text of the image."""

  png: bytes
  caption: str

  @property
  def data_url(self) -> str:
    """A URL that contains the image as Base64 data."""
    return f'data:image/png;base64,{base64.b64encode(self.png).decode()}'


@dataclasses.dataclass(frozen=True)
class Section:
  """A section of the report about one study, with text, tables and figures.

  Empty lines separate the paragraphs of `text`.
  """

  heading: str
  text: str = ''
  tables: Sequence[Table] = ()
  figures: Sequence[Picture] = ()


def render_page(
  title: str,
  provenance: Mapping[str, object],
  sections: Sequence[Section],
  verdicts: Sequence[Verdict] = (),
  subtitle: str = '',
  reproduction_commands: str = '',
  notes: Sequence[Note] = (),
) -> str:
  """Returns the complete HTML text of a report.

  Args:
    title: The title of the page.
    provenance: Facts about the origin of the records, by name.
    sections: The sections of the studies.
    verdicts: The rows of the table of verdicts.
    subtitle: A sentence below the title.
    reproduction_commands: The commands that reproduce the report, one per line.
    notes: Faults of records or controls, with the commands that resolve them.

  Returns:
    The HTML text.

  Raises:
    MissingExtra: Jinja is not installed.
  """
  jinja2 = optional.import_optional('jinja2', 'report pages', 'report')
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters |= {
    'format_table_cell': notation.format_table_cell, 'prose': _paragraphs_to_html}
  return environment.get_template('page.html').render(
    title=title,
    subtitle=subtitle,
    provenance={name: _format_provenance_value(value) for name, value in provenance.items()},
    sections=list(zip(_section_anchors(sections), sections, strict=True)),
    verdicts=verdicts,
    counts=Counter(row.verdict for row in verdicts),
    signs=SIGNS,
    reproduction_commands=reproduction_commands,
    notes=notes,
  )


def write_page(path: str | os.PathLike, html: str) -> pathlib.Path:
  """Writes the HTML of `render_page` to a file atomically and returns the path of the file."""
  path = pathlib.Path(path)
  # Bytes of a folder name that are not valid UTF-8 become surrogates, which UTF-8 cannot encode.
  data = html.encode(errors='replace')
  path.parent.mkdir(parents=True, exist_ok=True)
  atomic.write(path, data)
  return path


def _section_anchors(sections: Sequence[Section]) -> list[str]:
  """Returns a distinct HTML anchor for each section, even if two headings are equal."""
  return [
    f'{number}-{escape.to_slug(section.heading)}' for number, section in enumerate(sections, 1)]


def _format_provenance_value(value: object) -> str:
  """Formats a provenance value as text, and joins the items of a mapping or list by commas."""
  if isinstance(value, Mapping):
    return ', '.join(f'{name} {item}' for name, item in value.items())
  if isinstance(value, list | tuple | set | frozenset):
    return ', '.join(map(str, value))
  return str(value)


def _paragraphs_to_html(text: str):
  """Converts paragraphs to escaped HTML, and text in backticks to HTML code elements."""
  markup = optional.import_optional('markupsafe', 'report pages', 'report')
  paragraphs = (str(markup.escape(part.strip())) for part in re.split(r'\n\s*\n', text))
  coded = (re.sub(r'`([^`]+)`', r'<code>\1</code>', part) for part in paragraphs if part)
  return markup.Markup('\n'.join(f'<p>{part}</p>' for part in coded))
