"""A table is a value: titles, columns and rows, rendered for a terminal, a page or a paper.

A cell is text, a number, an `Interval`, or None for what was not measured (a dash). Rendering
rounds; only `csv` keeps every digit, with an interval in four columns, so that nothing is lost.
"""

import csv
import dataclasses
import io
import math
import os
import pathlib
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from experiments.lab import atomic, optional
from experiments.lab.results import escape, notation
from experiments.lab.results.statistics import Interval

tabulate = optional.later('tabulate')
DIRECTIONS = ('higher', 'lower')
_WIDEST_COLUMN = 44
_GAP, _HEADER_PADDING = 2, 2  # blanks that tabulate puts between columns and beside a header


class Shown(NamedTuple):
  """A cell as it is shown."""

  text: str
  numeric: bool
  best: bool


@dataclasses.dataclass(frozen=True)
class Table:
  """Rows of cells under named columns; `best` maps a column to the direction that wins in it.

  The last `references` rows are there to compare with, such as chance, and win nothing.
  """

  title: str
  columns: Sequence[str]
  rows: Sequence[Sequence[notation.TableCell]]
  caption: str = ''
  best: Mapping[str, str] = dataclasses.field(default_factory=dict)
  references: int = 0

  def __post_init__(self):
    object.__setattr__(self, 'columns', tuple(self.columns))
    object.__setattr__(self, 'rows', tuple(map(tuple, self.rows)))
    for row in self.rows:
      if len(row) != len(self.columns):
        raise ValueError(f'{self.title}: {len(row)} cells under {len(self.columns)} columns: {row}')
    for column, direction in self.best.items():
      if column not in self.columns or direction not in DIRECTIONS:
        raise ValueError(f'{self.title}: no column {column!r} or no direction {direction!r}')

  @property
  def numeric(self) -> tuple[bool, ...]:
    """Which columns hold nothing but numbers and dashes."""
    return tuple(not any(isinstance(value, str) for value in column) for column in self._across())

  def shown(self) -> list[list[Shown]]:
    """Rows as text, with the best of each marked column; equal texts share the mark."""
    ranked = len(self.rows) - self.references
    best = [
      _best(values[:ranked], self.best[name]) if name in self.best else ()
      for name, values in zip(self.columns, self._across(), strict=True)
    ]
    return [
      [
        Shown(
          text := notation.cell(value),
          _numeric(value),
          place < ranked and _numeric(value) and text in winners,
        )
        for value, winners in zip(row, best, strict=True)
      ]
      for place, row in enumerate(self.rows)
    ]

  def text(self, width: int = 100) -> str:
    """For a terminal. What does not fit in `width` goes below, under the first column again."""
    columns = [
      [name, *(textwrap.fill('*' * cell.best + cell.text, _WIDEST_COLUMN) for cell in cells)]
      for name, cells in zip(self.columns, self._shown_across(), strict=True)
    ]
    parts = [_grid(columns, self.numeric, chosen) for chosen in _blocks(columns, width)]
    notes = [textwrap.fill(note, width) for note in (self.caption, self._legend()) if note]
    return '\n\n'.join((self.title, *parts, *notes)) + '\n'

  def markdown(self) -> str:
    """For a README: a pipe table, the best in bold."""
    rows = [
      [f'**{escape.markdown(c.text)}**' if c.best else escape.markdown(c.text) for c in row]
      for row in self.shown()
    ]
    grid = tabulate.tabulate(
      rows,
      [escape.markdown(name) for name in self.columns],
      tablefmt='pipe',
      disable_numparse=True,
      colalign=self._alignment() if rows else None,
    )
    heading = f'**{escape.markdown(self.title)}**'
    return '\n\n'.join(filter(None, (heading, grid, escape.markdown(self.caption)))) + '\n'

  def latex(self) -> str:
    """For a paper: a booktabs table float; needs the packages booktabs and textcomp."""
    header = ' & '.join(escape.latex(name) for name in self.columns)
    body = [' & '.join(map(_latex_cell, row)) + r' \\' for row in self.shown()]
    caption = f'{self.title}. {self.caption}' if self.caption else self.title
    alignment = ''.join('r' if numeric else 'l' for numeric in self.numeric)
    lines = [
      r'\begin{table}',
      r'\centering',
      rf'\caption{{{escape.latex(caption)}}}',
      rf'\label{{tab:{escape.slug(self.title)}}}',
      rf'\begin{{tabular}}{{{alignment}}}',
      r'\toprule',
      rf'{header} \\',
      r'\midrule',
      *body,
      r'\bottomrule',
      r'\end{tabular}',
      r'\end{table}',
    ]
    return '\n'.join(lines) + '\n'

  def csv(self) -> str:
    """For a program: full precision, an interval as `<column> mean`, `low`, `high`, `count`."""
    output = io.StringIO()
    writer = csv.writer(output, lineterminator='\n')
    wide = [any(isinstance(v, Interval) for v in values) for values in self._across()]
    writer.writerow(
      name
      for column, split in zip(self.columns, wide, strict=True)
      for name in ([f'{column} {part}' for part in Interval._fields] if split else [column])
    )
    for row in self.rows:
      writer.writerow(v for value, split in zip(row, wide, strict=True) for v in _raw(value, split))
    return output.getvalue()

  def save(self, folder: str | os.PathLike, name: str) -> list[pathlib.Path]:
    """Write `name` as .txt, .md, .tex and .csv, each whole or not at all."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    forms = {'txt': self.text, 'md': self.markdown, 'tex': self.latex, 'csv': self.csv}
    paths = [folder / f'{name}.{suffix}' for suffix in forms]
    for path, render in zip(paths, forms.values(), strict=True):
      atomic.write(path, render().encode())
    return paths

  def _legend(self) -> str:
    ways = {way: [name for name in self.best if self.best[name] == way] for way in DIRECTIONS}
    said = [f'{way} in {", ".join(names)}' for way, names in ways.items() if names]
    return f'* best of its column: {"; ".join(said)}' if said else ''

  def _across(self) -> list[tuple]:
    """Cells column by column, also where there are no rows."""
    return [tuple(row[i] for row in self.rows) for i in range(len(self.columns))]

  def _shown_across(self) -> list[list[Shown]]:
    shown = self.shown()
    return [[row[i] for row in shown] for i in range(len(self.columns))]

  def _alignment(self) -> list[str]:
    return ['right' if numeric else 'left' for numeric in self.numeric]


def _numeric(value: notation.TableCell) -> bool:
  return value is not None and not isinstance(value, str | bool)


def _best(values: Sequence[notation.TableCell], direction: str) -> set[str]:
  """Texts of the best number of a column."""
  estimates = {
    value: float(value.mean if isinstance(value, Interval) else value)
    for value in values
    if _numeric(value)
  }
  known = [estimate for estimate in estimates.values() if not math.isnan(estimate)]
  winner = (max if direction == 'higher' else min)(known, default=math.nan)
  return {notation.cell(value) for value, estimate in estimates.items() if estimate == winner}


def _raw(value: notation.TableCell, split: bool) -> list:
  """Cell as CSV fields; a plain number among intervals stands under their means."""
  if isinstance(value, Interval):
    return list(value)
  return ['' if value is None else value, *([''] * 3 if split else [])]


def _latex_cell(cell: Shown) -> str:
  text = escape.latex_number(cell.text) if cell.numeric else escape.latex(cell.text)
  return rf'\textbf{{{text}}}' if cell.best else text


def _blocks(columns: list[list[str]], width: int) -> Iterator[list[int]]:
  """Split the columns into blocks that fit, each led by the first column."""
  sizes = []
  for header, *cells in columns:
    widest = max((len(line) for cell in cells for line in cell.splitlines()), default=0)
    sizes.append(max(widest, len(header) + _HEADER_PADDING) + _GAP)
  block = [0]
  for i in range(1, len(columns)):
    if len(block) > 1 and sum(sizes[j] for j in block) + sizes[i] - _GAP > width:
      yield block
      block = [0]
    block.append(i)
  yield block


def _grid(columns: list[list[str]], numeric: Sequence[bool], chosen: list[int]) -> str:
  header, *rows = zip(*(columns[i] for i in chosen), strict=True)
  return tabulate.tabulate(
    rows,
    header,
    tablefmt='simple',
    disable_numparse=True,
    colalign=['right' if numeric[i] else 'left' for i in chosen] if rows else None,
  )
