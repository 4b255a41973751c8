"""Tables that can be rendered as text, Markdown, LaTeX, HTML or CSV.

A cell is text, a number, an `Interval`, or None for a missing measurement (shown as a dash). All
formats round numbers except CSV, which keeps full precision and has four columns for an interval.
"""

import csv
import dataclasses
import io
import math
import os
import pathlib
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from experiments.lab import atomic, optional
from experiments.lab.results import escape, notation
from experiments.lab.results.statistics import Interval

tabulate = optional.lazy_module('tabulate')
DIRECTIONS = ('higher', 'lower')
_WIDEST_COLUMN = 44
# The library tabulate inserts two spaces between columns and pads a header by two spaces.
_GAP, _HEADER_PADDING = 2, 2


class FormattedCell(NamedTuple):
  """The formatted text of a table cell, with flags that mark numbers and best values."""

  text: str
  is_numeric: bool
  best: bool


@dataclasses.dataclass(frozen=True)
class Table:
  """A table with a title, named columns, rows of values and a caption.

  `best` maps a column to 'higher' or 'lower', the direction of better values. The last
  `reference_rows` rows, such as chance, are for comparison and never marked as best.
  """

  title: str
  columns: Sequence[str]
  rows: Sequence[Sequence[notation.TableCell]]
  caption: str = ''
  best: Mapping[str, str] = dataclasses.field(default_factory=dict)
  reference_rows: int = 0

  def __post_init__(self):
    object.__setattr__(self, 'columns', tuple(self.columns))
    object.__setattr__(self, 'rows', tuple(map(tuple, self.rows)))
    for row in self.rows:
      if len(row) != len(self.columns):
        raise ValueError(
          f'table {self.title!r}: {len(row)} cells for {len(self.columns)} columns in row {row}')
    for column, direction in self.best.items():
      if column not in self.columns or direction not in DIRECTIONS:
        raise ValueError(
          f'table {self.title!r}: best={{{column!r}: {direction!r}}} needs one of the columns'
          f' {self.columns} and one of {DIRECTIONS}')

  @property
  def numeric_columns(self) -> tuple[bool, ...]:
    """Flags that mark the columns with only numbers and missing values."""
    return tuple(
      not any(isinstance(value, str) for value in column) for column in self._values_by_column())

  def formatted_rows(self) -> list[list[FormattedCell]]:
    """Formats the cells of each row, and marks all cells that display the best value."""
    ranked = len(self.rows) - self.reference_rows
    best = [
      _formatted_values_of_best_cells(values[:ranked], self.best[name] == 'higher')
      if name in self.best else ()
      for name, values in zip(self.columns, self._values_by_column(), strict=True)
    ]
    return [
      [
        FormattedCell(
          text := notation.format_table_cell(value),
          _is_number(value),
          index < ranked and _is_number(value) and text in winners,
        )
        for value, winners in zip(row, best, strict=True)
      ]
      for index, row in enumerate(self.rows)
    ]

  def text(self, width: int = 100) -> str:
    """Renders the table as text, split into blocks of columns if wider than `width` characters."""
    columns = [
      [name, *(textwrap.fill('*' * cell.best + cell.text, _WIDEST_COLUMN) for cell in cells)]
      for name, cells in zip(self.columns, self._formatted_cells_by_column(), strict=True)
    ]
    parts = [
      _render_text_block(columns, self.numeric_columns, indices)
      for indices in _split_columns_by_width(columns, width)
    ]
    notes = self.caption, self._explain_best_value_markers()
    wrapped_notes = [textwrap.fill(note, width) for note in notes if note]
    return '\n\n'.join((self.title, *parts, *wrapped_notes)) + '\n'

  def markdown(self) -> str:
    """Renders the table as a Markdown pipe table with the best values in bold."""
    grid = self._render_with_tabulate('pipe', escape.to_markdown, _markdown_cell)
    heading = f'**{escape.to_markdown(self.title)}**'
    return '\n\n'.join(filter(None, (heading, grid, escape.to_markdown(self.caption)))) + '\n'

  def latex(self) -> str:
    """Renders the table as a LaTeX float, which requires the packages booktabs and textcomp."""
    # The tabulate format latex_booktabs would escape the command \textbf around the best values.
    grid = self._render_with_tabulate('latex_raw', escape.to_latex, _latex_cell)
    for rule in (r'\toprule', r'\midrule', r'\bottomrule'):
      grid = grid.replace(r'\hline', rule, 1)
    caption = f'{self.title}. {self.caption}' if self.caption else self.title
    lines = [
      r'\begin{table}',
      r'\centering',
      rf'\caption{{{escape.to_latex(caption)}}}',
      rf'\label{{tab:{escape.to_slug(self.title)}}}',
      grid,
      r'\end{table}',
    ]
    return '\n'.join(lines) + '\n'

  def csv(self) -> str:
    """Renders the table as CSV, where an interval has four columns (estimate, low, high, count)."""
    output = io.StringIO()
    writer = csv.writer(output, lineterminator='\n')
    has_intervals = [
      any(isinstance(value, Interval) for value in values) for values in self._values_by_column()]
    writer.writerow(
      name
      for column, split in zip(self.columns, has_intervals, strict=True)
      for name in ([f'{column} {part}' for part in Interval._fields] if split else [column])
    )
    for row in self.rows:
      writer.writerow(
        field for value, split in zip(row, has_intervals, strict=True)
        for field in _csv_fields(value, split))
    return output.getvalue()

  def save(self, folder: str | os.PathLike, name: str) -> list[pathlib.Path]:
    """Saves the table as `<folder>/<name>` with the suffixes .txt, .md, .tex and .csv."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    forms = {'txt': self.text, 'md': self.markdown, 'tex': self.latex, 'csv': self.csv}
    paths = [folder / f'{name}.{suffix}' for suffix in forms]
    for path, render in zip(paths, forms.values(), strict=True):
      atomic.write(path, render().encode())
    return paths

  def _explain_best_value_markers(self) -> str:
    columns = {direction: [name for name in self.best if self.best[name] == direction]
               for direction in DIRECTIONS}
    parts = [f'{direction} is better in {", ".join(names)}'
             for direction, names in columns.items() if names]
    return f'* best of its column: {"; ".join(parts)}' if parts else ''

  def _values_by_column(self) -> list[tuple]:
    """Returns the values of each column (an empty tuple if the table has no rows)."""
    return [tuple(row[i] for row in self.rows) for i in range(len(self.columns))]

  def _formatted_cells_by_column(self) -> list[list[FormattedCell]]:
    rows = self.formatted_rows()
    return [[row[i] for row in rows] for i in range(len(self.columns))]

  def _render_with_tabulate(
    self, tabulate_format: str, format_header: Callable, format_cell: Callable
  ) -> str:
    cells = [[format_cell(cell) for cell in row] for row in self.formatted_rows()]
    alignment = ['right' if numeric else 'left' for numeric in self.numeric_columns]
    return tabulate.tabulate(
      cells,
      [format_header(name) for name in self.columns],
      tablefmt=tabulate_format,
      disable_numparse=True,
      colalign=alignment if cells else None,
    )


def _is_number(value: notation.TableCell) -> bool:
  return value is not None and not isinstance(value, str | bool)


def _formatted_values_of_best_cells(
  values: Sequence[notation.TableCell], higher_is_better: bool
) -> set[str]:
  """Returns the formatted texts of all values that are equal to the best value."""
  estimates = {
    value: float(value.estimate if isinstance(value, Interval) else value)
    for value in values
    if _is_number(value)
  }
  known = [estimate for estimate in estimates.values() if not math.isnan(estimate)]
  winner = (max if higher_is_better else min)(known, default=math.nan)
  return {
    notation.format_table_cell(value)
    for value, estimate in estimates.items() if estimate == winner
  }


def _csv_fields(value: notation.TableCell, as_interval: bool) -> list:
  """Returns one CSV field, or four (estimate, low, high, count) in a column with intervals."""
  if isinstance(value, Interval):
    return list(value)
  return ['' if value is None else value, *([''] * 3 if as_interval else [])]


def _markdown_cell(cell: FormattedCell) -> str:
  text = escape.to_markdown(cell.text)
  return f'**{text}**' if cell.best else text


def _latex_cell(cell: FormattedCell) -> str:
  text = escape.number_to_latex(cell.text) if cell.is_numeric else escape.to_latex(cell.text)
  return rf'\textbf{{{text}}}' if cell.best else text


def _split_columns_by_width(columns: list[list[str]], width: int) -> Iterator[list[int]]:
  """Splits a wide table into blocks of columns, and yields the column indices of each block.

  A block fits the width and starts with the first column. It has at least one further column, even
  if both columns together exceed the width.
  """
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


def _render_text_block(
  columns: list[list[str]], is_numeric: Sequence[bool], indices: list[int]
) -> str:
  header, *rows = zip(*(columns[i] for i in indices), strict=True)
  return tabulate.tabulate(
    rows,
    header,
    tablefmt='simple',
    disable_numparse=True,
    colalign=['right' if is_numeric[i] else 'left' for i in indices] if rows else None,
  )
