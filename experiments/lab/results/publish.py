"""What a study leaves behind: its tables on the terminal and as files, its figure beside them."""

import os
import pathlib
import shutil
from collections.abc import Sequence

from experiments.lab import atomic, optional
from experiments.lab.results import escape, figures
from experiments.lab.results.figures import Panel
from experiments.lab.results.table import Table

MOST_ROWS = 100  # that are printed; of a longer table is said where it stands


def tables(name: str, made: Sequence[Table], folder: str | os.PathLike) -> None:
  """Prints tables, and writes them under <folder>/<name> as text, Markdown, LaTeX and CSV.

  They are printed first, so that they are seen even where nothing can be written: an OSError.
  """
  width = shutil.get_terminal_size((120, 24)).columns
  place = pathlib.Path(folder) / name
  for table in made:
    if len(table.rows) > MOST_ROWS:
      print(f'{table.title}: {len(table.rows)} rows, in {place / escape.slug(table.title)}.txt\n')
    else:
      print(table.text(width))
  save(name, made, folder)


def save(name: str, made: Sequence[Table], folder: str | os.PathLike) -> pathlib.Path:
  """Writes tables under <folder>/<name>."""
  place = pathlib.Path(folder) / name
  atomic.clean(place)
  for table in made:
    table.save(place, escape.slug(table.title))
  return place


def study(
  name: str, made: Sequence[Table], panels: Sequence[Panel], folder: str | os.PathLike, order=()
) -> None:
  """Prints a study's tables, and writes them and its figure; `order` fixes the look of names."""
  tables(name, made, folder)
  place = pathlib.Path(folder) / name
  try:
    if panels:
      figures.save(figures.draw(panels, order=order), place / 'figure')
  except optional.MissingExtra as missing:
    print(missing)
  print(f'tables and figures: {place}')
