"""Figures for a paper and for the page: curves with their intervals, one panel a question.

A name keeps its colour, marker and dash in every panel and every figure that is drawn with the same
`order`. Colours are those of Okabe and Ito, which colour-blind readers can tell apart; markers tell
them apart in grey. Nothing in a file depends on the date or the machine.
"""

import dataclasses
import functools
import io
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.lab import atomic, optional
from experiments.lab.results.statistics import Interval

# Okabe and Ito (2008), black softened and yellow left out: it is too faint on white paper.
_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00', '#3B3B3B')
_MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X', '>')
_DASHES = ('-', (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
_PANEL = (3.3, 2.45)  # inches: two fit the text width of a paper
_LEGEND_ROW = 0.22  # inches
_INK, _FAINT, _GRID = '#222222', '#6B6B6B', '#E4E4E4'
_MOST_TICKS = 7
_DARK = 0.55  # a weight above it wants white letters

_LOOK = {
  'font.family': 'sans-serif',
  'font.sans-serif': ['DejaVu Sans'],  # comes with matplotlib: the same on every machine
  'font.size': 8,
  'axes.titlesize': 9,
  'axes.titleweight': 'bold',
  'axes.titlelocation': 'left',
  'axes.labelsize': 8,
  'axes.labelcolor': _INK,
  'axes.edgecolor': _FAINT,
  'axes.linewidth': 0.6,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid': True,
  'axes.axisbelow': True,
  'grid.color': _GRID,
  'grid.linewidth': 0.5,
  'text.color': _INK,
  'xtick.color': _FAINT,
  'ytick.color': _FAINT,
  'xtick.labelcolor': _INK,
  'ytick.labelcolor': _INK,
  'xtick.labelsize': 7,
  'ytick.labelsize': 7,
  'xtick.major.width': 0.6,
  'ytick.major.width': 0.6,
  'xtick.major.size': 2.5,
  'ytick.major.size': 2.5,
  'legend.fontsize': 8,
  'legend.frameon': False,
  'pdf.fonttype': 42,  # text stays text in a PDF
}


class Style(NamedTuple):
  """How a name is drawn."""

  colour: str
  marker: str
  dash: Any


@dataclasses.dataclass(frozen=True)
class Panel:
  """One set of axes. `series` maps a name to its points (x, Interval), `lines` a name to a y."""

  title: str
  x_label: str
  y_label: str
  series: Mapping[str, Sequence[tuple[float, Interval]]]
  log_x: bool = False
  log_y: bool = False
  lines: Mapping[str, float] = dataclasses.field(default_factory=dict)
  y_range: tuple[float, float] | None = None
  size: tuple[float, float] | None = None  # as of a heat map


@dataclasses.dataclass(frozen=True)
class HeatMap:
  """Weights from 0 to 1, a row for each of `rows`, a column for each of `columns`.

  `notes` are short texts for the cells; `scale` says what weights mean, on a bar beside the map.
  A map that has a `size`, in inches, takes a whole row of the figure. The palette is one of
  matplotlib's that gets darker all the way, so that it reads the same in grey.
  """

  title: str
  x_label: str
  y_label: str
  rows: Sequence[str]
  columns: Sequence[str]
  weights: Sequence[Sequence[float]]
  series: Mapping[str, Sequence] = dataclasses.field(default_factory=dict)  # none: no legend
  notes: Sequence[Sequence[str]] = ()
  scale: Mapping[float, str] = dataclasses.field(default_factory=dict)
  size: tuple[float, float] | None = None
  palette: str = 'Greys'


def styles(names: Sequence[str]) -> dict[str, Style]:
  """Look of each name, given by its place; any two of the first 56 differ."""
  looks = {}
  for place, name in enumerate(dict.fromkeys(names)):
    dash = _DASHES[place // len(_COLOURS) % len(_DASHES)]
    looks[name] = Style(_COLOURS[place % len(_COLOURS)], _MARKERS[place % len(_MARKERS)], dash)
  return looks


def draw(panels: Sequence[Panel | HeatMap], columns: int | None = None, order: Sequence[str] = ()):
  """Draw panels with one legend as a matplotlib Figure; `order` fixes the look of names."""
  if not panels:
    raise ValueError('a figure needs a panel')
  matplotlib = _matplotlib()
  names = list(dict.fromkeys(name for panel in panels for name in panel.series))
  looks = styles([*order, *names])
  drawn = [name for name in looks if name in names]
  rows = _rows(panels, columns or 2)
  columns = max(map(len, rows))
  width = max([columns * _PANEL[0], *(_size(panel)[0] for panel in panels)])
  heights = [max(_size(panel)[1] for panel in row) for row in rows]
  per_row = max(1, int(width / (0.65 + 0.065 * max(map(len, drawn), default=0))))
  height = sum(heights) + _LEGEND_ROW * math.ceil(len(drawn) / per_row)
  with matplotlib.rc_context(_LOOK):
    figure = matplotlib.figure.Figure(figsize=(width, height), layout='constrained')
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)
    grid = figure.add_gridspec(len(rows), columns, height_ratios=heights)
    for place, row in enumerate(rows):
      for column, panel in enumerate(row):
        cell = grid[place, :] if _alone(panel) else grid[place, column]
        _draw_panel(panel, figure.add_subplot(cell), looks)
    handles = [_handle(matplotlib, looks[name]) for name in drawn]
    if drawn:
      place = 'outside lower center'
      figure.legend(handles, drawn, loc=place, ncols=min(per_row, len(drawn)), handlelength=2.6)
  return figure


def image(figure, form: str = 'png') -> bytes:
  """Figure as the bytes of a file: 'png' or 'pdf'."""
  matplotlib = _matplotlib()
  nothing = {
    'png': {'Software': None},
    'pdf': {'CreationDate': None, 'Creator': None, 'Producer': None},
  }[form]
  output = io.BytesIO()
  with matplotlib.rc_context(_LOOK):
    figure.savefig(output, format=form, dpi=220, metadata=nothing, facecolor='white')
  return output.getvalue()


def save(figure, path: str | os.PathLike) -> list[pathlib.Path]:
  """Write <path>.png and <path>.pdf, each whole or not at all."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  written = [path.with_name(f'{path.name}.{form}') for form in ('png', 'pdf')]
  for target, form in zip(written, ('png', 'pdf'), strict=True):
    atomic.write(target, image(figure, form))
  return written


def _rows(panels: Sequence[Panel | HeatMap], columns: int) -> list[list[Panel | HeatMap]]:
  """Panels in rows of as many columns, in their order; one with a size of its own is alone."""
  rows = [[]]
  for panel in panels:
    if _alone(panel) or len(rows[-1]) == columns or any(map(_alone, rows[-1])):
      rows.append([])
    rows[-1].append(panel)
  return [row for row in rows if row]


def _alone(panel: Panel | HeatMap) -> bool:
  return _size(panel) != _PANEL


def _size(panel: Panel | HeatMap) -> tuple[float, float]:
  """Inches that a panel asks for."""
  return panel.size or _PANEL


def _matplotlib():
  optional.load('matplotlib.figure', 'figures', 'report')
  optional.load('matplotlib.lines', 'figures', 'report')
  return optional.load('matplotlib', 'figures', 'report')


def _handle(matplotlib, style: Style):
  return matplotlib.lines.Line2D([], [], **_line(style))


def _line(style: Style) -> dict:
  return {
    'color': style.colour,
    'marker': style.marker,
    'linestyle': style.dash,
    'linewidth': 1.4,
    'markersize': 5.2 if style.marker in 'PX' else 4.2,
    'markeredgecolor': 'white',
    'markeredgewidth': 0.4,
  }


@functools.singledispatch
def _draw_panel(panel: Panel, axes, looks: Mapping[str, Style]) -> None:
  if panel.log_x:
    axes.set_xscale('log', base=2)
  if panel.log_y:
    axes.set_yscale('log')
  for place, (name, points) in enumerate(panel.series.items()):
    _draw_series(axes, points, looks[name], panel.log_y, order=3 + place)
  for name, height in panel.lines.items():
    axes.axhline(height, color=_FAINT, linewidth=0.8, linestyle=(0, (2, 2)), zorder=2)
    place = axes.get_yaxis_transform()  # x in parts of the axes, y in data
    axes.text(1.01, height, name, transform=place, va='center', fontsize=7, color=_FAINT)
  axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
  if panel.y_range:
    axes.set_ylim(*panel.y_range)
  axes.minorticks_off()
  if panel.log_x:
    _integer_ticks(axes, sorted({x for points in panel.series.values() for x, _ in points}))


@_draw_panel.register
def _(panel: HeatMap, axes, looks: Mapping[str, Style]) -> None:
  shown = axes.imshow(
    panel.weights, cmap=panel.palette, vmin=0, vmax=1, aspect='auto', interpolation='nearest'
  )
  room = 160 * _size(panel)[0] / _PANEL[0]
  size = min(7, room / max(len(panel.columns), len(panel.rows), 1))
  axes.set_xticks(range(len(panel.columns)), panel.columns, rotation=90, fontsize=size)
  axes.set_yticks(range(len(panel.rows)), panel.rows, fontsize=size)
  axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
  axes.grid(visible=False)
  if panel.notes:
    _write_notes(panel, axes, 0.75 * size)
  if panel.scale:
    bar = axes.figure.colorbar(shown, ax=axes, aspect=30, pad=0.02)
    bar.set_ticks(list(panel.scale), labels=list(panel.scale.values()))
    bar.outline.set_visible(False)


def _write_notes(panel: HeatMap, axes, size: float) -> None:
  """Texts into the cells, at a size for four letters, and lines between them."""
  axes.set_xticks([column - 0.5 for column in range(len(panel.columns))], minor=True)
  axes.set_yticks([row - 0.5 for row in range(len(panel.rows))], minor=True)
  axes.tick_params(which='minor', length=0)
  axes.grid(which='minor')
  axes.set_axisbelow(False)
  for row, notes in enumerate(panel.notes):
    for column, note in enumerate(notes):
      colour = 'white' if panel.weights[row][column] > _DARK else _INK
      fitting = size * min(1, 4 / max(1, len(note)))
      axes.text(column, row, note, fontsize=fitting, color=colour, ha='center', va='center')


def _draw_series(axes, points, style: Style, log_y: bool, order: int) -> None:
  """Draw the estimates as a line, the intervals as a band, or as a bar where a point is alone."""
  points = sorted(points, key=lambda point: point[0])
  xs = [x for x, _ in points]
  # A bound at or below zero has no place on a log axis; there the band ends at its estimate.
  low = [y.mean if log_y and y.low <= 0 else y.low for _, y in points]
  high = [y.high for _, y in points]
  axes.plot(xs, [y.mean for _, y in points], zorder=order, **_line(style))
  axes.fill_between(xs, low, high, color=style.colour, alpha=0.17, linewidth=0, zorder=order - 1)
  gaps = [True, *(not y.known for _, y in points), True]
  for i, x in enumerate(xs):
    if gaps[i] and gaps[i + 2] and not gaps[i + 1]:
      axes.vlines(x, low[i], high[i], color=style.colour, linewidth=1.2, zorder=order - 1)


def _integer_ticks(axes, xs: Sequence[float]) -> None:
  """Ticks at the measured lengths, written out; thinned from the right when there are many."""
  step = max(1, math.ceil(len(xs) / _MOST_TICKS))
  chosen = xs[::-1][::step][::-1]
  axes.set_xticks(chosen, [f'{x:g}' if x < 1e6 else f'{x:.0f}' for x in chosen])
