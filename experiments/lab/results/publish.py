"""Functions that print the tables of a study and save its tables and its figure."""

import os
import pathlib
import shutil
from collections.abc import Sequence

from experiments.lab import atomic, optional
from experiments.lab.results import escape, figures
from experiments.lab.results.figures import Panel
from experiments.lab.results.table import Table

MAX_PRINTED_ROWS = 100  # For a longer table only the path of its file is printed.


def print_and_save_tables(name: str, tables: Sequence[Table], folder: str | os.PathLike) -> None:
  """Prints tables and saves them in `<folder>/<name>` as text, Markdown, LaTeX and CSV.

  Printing comes first, so that the tables are visible even if the folder cannot be written.

  Args:
    name: The subfolder, such as the name of a study.
    tables: The tables.
    folder: The folder of results.

  Raises:
    OSError: The files cannot be written.
  """
  width = shutil.get_terminal_size((120, 24)).columns
  directory = pathlib.Path(folder) / name
  for table in tables:
    if len(table.rows) > MAX_PRINTED_ROWS:
      path = directory / f'{escape.to_slug(table.title)}.txt'
      print(f'{table.title}: {len(table.rows)} rows, in {path}\n')
    else:
      print(table.text(width))
  save_tables(name, tables, folder)


def save_tables(name: str, tables: Sequence[Table], folder: str | os.PathLike) -> pathlib.Path:
  """Saves tables in `<folder>/<name>` as text, Markdown, LaTeX and CSV.

  Args:
    name: The subfolder, such as the name of a study.
    tables: The tables.
    folder: The folder of results.

  Returns:
    The subfolder.
  """
  directory = pathlib.Path(folder) / name
  atomic.remove_abandoned_files(directory)
  for table in tables:
    table.save(directory, escape.to_slug(table.title))
  return directory


def print_and_save_study(
  name: str, tables: Sequence[Table], panels: Sequence[Panel], folder: str | os.PathLike,
  curve_order: Sequence[str] = (),
) -> None:
  """Prints the tables of a study, and saves the tables and the figure in `<folder>/<name>`.

  Args:
    name: The name of the study.
    tables: The tables.
    panels: The panels of the figure, which is omitted without panels.
    folder: The folder of results.
    curve_order: Names of curves in the order that determines their colours and markers.
  """
  print_and_save_tables(name, tables, folder)
  directory = pathlib.Path(folder) / name
  try:
    if panels:
      figure = figures.draw_figure(panels, curve_order=curve_order)
      figures.save_figure(figure, directory / 'figure')
  except optional.MissingExtra as missing:
    print(missing)
  print(f'tables and figures: {directory}')
