"""The report: one HTML file that needs nothing else, to be opened, printed, mailed or archived.

It opens with the verdicts, because they are what is asked for, and ends with what it takes to get
them again. Every table carries its LaTeX and its CSV, so that a paper can quote it as it is.
Text is escaped on its way into the page; a backtick pair in a section's text sets code.
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

# Each verdict by a sign as well as by a colour, in the order in which they are counted.
SIGNS = {
  'supported': '✓', 'contradicted': '✕', 'inconclusive': '?', 'void': '!', 'error': '⚠',
  'not run': '–',
}


@dataclasses.dataclass(frozen=True)
class Verdict:
  """One row of the scoreboard: a claim and what the records say of it."""

  statement: str
  verdict: str
  effect: str = ''
  interval: Interval | None = None
  seeds: int | None = None
  source: str = ''
  reason: str = ''  # what a reader needs to know of the verdict

  def __post_init__(self):
    if self.verdict not in SIGNS:
      raise ValueError(f'verdict {self.verdict!r} is none of {tuple(SIGNS)}')


@dataclasses.dataclass(frozen=True)
class Picture:
  """A figure as PNG bytes; the caption also describes it to those who cannot see it."""

  png: bytes
  caption: str

  @property
  def address(self) -> str:
    """The picture itself, as an address that a page can show without a file."""
    return f'data:image/png;base64,{base64.b64encode(self.png).decode()}'


@dataclasses.dataclass(frozen=True)
class Section:
  """A study: text in paragraphs (parted by an empty line), tables and figures."""

  heading: str
  text: str = ''
  tables: Sequence[Table] = ()
  figures: Sequence[Picture] = ()


def render(
  title: str,
  provenance: Mapping[str, object],
  sections: Sequence[Section],
  verdicts: Sequence[Verdict] = (),
  subtitle: str = '',
  reproduce: str = '',
  notes: Sequence[Note] = (),
) -> str:
  """HTML of a report.

  Args:
    title: of the page.
    provenance: where the numbers come from, by name.
    sections: the studies.
    verdicts: the scoreboard.
    subtitle: below the title.
    reproduce: the commands that make the report again, one a line.
    notes: what is wrong with records or controls, and what to do about it.

  """
  jinja2 = optional.load('jinja2', 'report pages', 'report')
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters |= {'cell': notation.cell, 'prose': _prose}
  return environment.get_template('page.html').render(
    title=title,
    subtitle=subtitle,
    provenance={name: _plain(value) for name, value in provenance.items()},
    sections=list(zip(_anchors(sections), sections, strict=True)),
    verdicts=verdicts,
    counts=Counter(row.verdict for row in verdicts),
    signs=SIGNS,
    reproduce=reproduce,
    notes=notes,
  )


def write(path: str | os.PathLike, *arguments, **options) -> pathlib.Path:
  """Write the report of `render`'s arguments, whole or not at all."""
  path = pathlib.Path(path)
  data = render(*arguments, **options).encode(errors='replace')  # a folder's name may be no text
  path.parent.mkdir(parents=True, exist_ok=True)
  atomic.write(path, data)
  return path


def _anchors(sections: Sequence[Section]) -> list[str]:
  """Give each section its own anchor, also where headings are alike."""
  return [f'{place}-{escape.slug(section.heading)}' for place, section in enumerate(sections, 1)]


def _plain(value: object) -> str:
  """Text of a provenance value: a mapping as `name value` pairs, a list by commas."""
  if isinstance(value, Mapping):
    return ', '.join(f'{name} {item}' for name, item in value.items())
  if isinstance(value, list | tuple | set | frozenset):
    return ', '.join(map(str, value))
  return str(value)


def _prose(text: str):
  """Paragraphs of escaped text, with code between backticks."""
  markup = optional.load('markupsafe', 'report pages', 'report')
  paragraphs = (str(markup.escape(part.strip())) for part in re.split(r'\n\s*\n', text))
  coded = (re.sub(r'`([^`]+)`', r'<code>\1</code>', part) for part in paragraphs if part)
  return markup.Markup('\n'.join(f'<p>{part}</p>' for part in coded))
