"""Heat maps, and line plots with confidence bands, for papers and for the HTML report.

A name has the same colour, marker and line style in all figures that are drawn with the same
`curve_order`. The colours are those of Okabe and Ito, which remain distinct for colour-blind
readers, and the markers are distinct in greyscale. Image files depend neither on the date nor on
the machine.
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

# Colours of Okabe and Ito (2008), with dark grey instead of black and without the faint yellow.
_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#56B4E9', '#E69F00', '#3B3B3B')
_MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X', '>')
_DASHES = ('-', (0, (5, 1.6)), (0, (1.2, 1.2)), (0, (5, 1.5, 1.2, 1.5)))
_PANEL = (3.3, 2.45)  # In inches, so that two panels fit the text width of a paper.
_LEGEND_ROW = 0.22  # inches
_INK, _FAINT, _GRID = '#222222', '#6B6B6B', '#E4E4E4'
_MAX_TICKS = 7
_DARK_WEIGHT = 0.55  # Labels of cells with a larger weight are white.

_RC_PARAMETERS = {
  'font.family': 'sans-serif',
  'font.sans-serif': ['DejaVu Sans'],  # It is part of matplotlib, so the same on every machine.
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
  'pdf.fonttype': 42,  # Text in a PDF remains searchable.
}


class Style(NamedTuple):
  """The colour, marker and line style of a curve."""

  colour: str
  marker: str
  dash: Any


@dataclasses.dataclass(frozen=True)
class Panel:
  """A line plot in a figure, with curves, horizontal lines, axis labels and axis scales.

  `series` maps a name to its points (x, Interval). `lines` maps a name to the y of a horizontal
  line. `size` is in inches, as in a heat map.
  """

  title: str
  x_label: str
  y_label: str
  series: Mapping[str, Sequence[tuple[float, Interval]]]
  log_x: bool = False
  log_y: bool = False
  lines: Mapping[str, float] = dataclasses.field(default_factory=dict)
  y_range: tuple[float, float] | None = None
  size: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class HeatMap:
  """A heat map of values from 0 to 1, such as attention weights, with labels of rows and columns.

  `cell_labels` are short texts inside the cells. `scale_labels` are the labels of values on a
  colour bar beside the map. A map with a `size`, in inches, fills a row of the figure. The palette
  is a colormap of matplotlib that darkens monotonically, so that it is readable in greyscale.
  """

  title: str
  x_label: str
  y_label: str
  rows: Sequence[str]
  columns: Sequence[str]
  weights: Sequence[Sequence[float]]
  # A heat map has no curves and therefore no entry in the legend of a figure.
  series: Mapping[str, Sequence] = dataclasses.field(default_factory=dict)
  cell_labels: Sequence[Sequence[str]] = ()
  scale_labels: Mapping[float, str] = dataclasses.field(default_factory=dict)
  size: tuple[float, float] | None = None
  palette: str = 'Greys'


def assign_styles(curve_names: Sequence[str]) -> dict[str, Style]:
  """Maps each curve name to a colour, marker and line style, distinct for the first 56 names."""
  styles = {}
  for index, name in enumerate(dict.fromkeys(curve_names)):
    dash = _DASHES[index // len(_COLOURS) % len(_DASHES)]
    styles[name] = Style(_COLOURS[index % len(_COLOURS)], _MARKERS[index % len(_MARKERS)], dash)
  return styles


def draw_figure(
  panels: Sequence[Panel | HeatMap], panels_per_row: int | None = None,
  curve_order: Sequence[str] = (),
):
  """Draws all panels into one figure with a shared legend.

  Args:
    panels: The panels, at least one.
    panels_per_row: The largest number of panels in a row, 2 by default.
    curve_order: Names of curves in the order that determines their colours and markers.

  Returns:
    The matplotlib Figure.

  Raises:
    ValueError: There is no panel.
  """
  if not panels:
    raise ValueError('a figure needs at least one panel')
  matplotlib = _load_matplotlib()
  names = list(dict.fromkeys(name for panel in panels for name in panel.series))
  styles = assign_styles([*curve_order, *names])
  legend = [name for name in styles if name in names]
  rows = _arrange_in_rows(panels, panels_per_row or 2)
  columns = max(map(len, rows))
  width = max([columns * _PANEL[0], *(_size_in_inches(panel)[0] for panel in panels)])
  heights = [max(_size_in_inches(panel)[1] for panel in row) for row in rows]
  per_row = max(1, int(width / (0.65 + 0.065 * max(map(len, legend), default=0))))
  height = sum(heights) + _LEGEND_ROW * math.ceil(len(legend) / per_row)
  with matplotlib.rc_context(_RC_PARAMETERS):
    figure = matplotlib.figure.Figure(figsize=(width, height), layout='constrained')
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.06)
    grid = figure.add_gridspec(len(rows), columns, height_ratios=heights)
    for index, row in enumerate(rows):
      for column, panel in enumerate(row):
        cell = grid[index, :] if _requires_separate_row(panel) else grid[index, column]
        _draw_panel(panel, figure.add_subplot(cell), styles)
    handles = [_legend_handle(matplotlib, styles[name]) for name in legend]
    if legend:
      figure.legend(
        handles, legend, loc='outside lower center', ncols=min(per_row, len(legend)),
        handlelength=2.6)
  return figure


def encode_figure(figure, file_format: str = 'png') -> bytes:
  """Encodes the figure in the file format 'png' or 'pdf' and returns the bytes."""
  matplotlib = _load_matplotlib()
  metadata = {  # None removes the entry.
    'png': {'Software': None},
    'pdf': {'CreationDate': None, 'Creator': None, 'Producer': None},
  }[file_format]
  output = io.BytesIO()
  with matplotlib.rc_context(_RC_PARAMETERS):
    figure.savefig(output, format=file_format, dpi=220, metadata=metadata, facecolor='white')
  return output.getvalue()


def save_figure(figure, path: str | os.PathLike) -> list[pathlib.Path]:
  """Saves the figure as `<path>.png` and `<path>.pdf`, each atomically, and returns both paths."""
  path = pathlib.Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  formats = 'png', 'pdf'
  targets = [path.with_name(f'{path.name}.{file_format}') for file_format in formats]
  for target, file_format in zip(targets, formats, strict=True):
    atomic.write(target, encode_figure(figure, file_format))
  return targets


def _arrange_in_rows(
  panels: Sequence[Panel | HeatMap], panels_per_row: int
) -> list[list[Panel | HeatMap]]:
  """Arranges panels in rows, with a separate row for each panel of a non-default size."""
  rows = [[]]
  for panel in panels:
    is_complete = len(rows[-1]) == panels_per_row or any(map(_requires_separate_row, rows[-1]))
    if is_complete or _requires_separate_row(panel):
      rows.append([])
    rows[-1].append(panel)
  return [row for row in rows if row]


def _requires_separate_row(panel: Panel | HeatMap) -> bool:
  return _size_in_inches(panel) != _PANEL


def _size_in_inches(panel: Panel | HeatMap) -> tuple[float, float]:
  return panel.size or _PANEL


def _load_matplotlib():
  optional.import_optional('matplotlib.figure', 'figures', 'report')
  optional.import_optional('matplotlib.lines', 'figures', 'report')
  return optional.import_optional('matplotlib', 'figures', 'report')


def _legend_handle(matplotlib, style: Style):
  return matplotlib.lines.Line2D([], [], **_line_properties(style))


def _line_properties(style: Style) -> dict:
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
def _draw_panel(panel: Panel, axes, styles: Mapping[str, Style]) -> None:
  if panel.log_x:
    axes.set_xscale('log', base=2)
  if panel.log_y:
    axes.set_yscale('log')
  for index, (name, points) in enumerate(panel.series.items()):
    _draw_curve(axes, points, styles[name], panel.log_y, z_order=3 + index)
  for name, height in panel.lines.items():
    axes.axhline(height, color=_FAINT, linewidth=0.8, linestyle=(0, (2, 2)), zorder=2)
    # The text position has x as a fraction of the width of the axes, and y in data units.
    transform = axes.get_yaxis_transform()
    axes.text(1.01, height, name, transform=transform, va='center', fontsize=7, color=_FAINT)
  axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
  if panel.y_range:
    axes.set_ylim(*panel.y_range)
  axes.minorticks_off()
  if panel.log_x:
    _set_length_ticks(axes, sorted({x for points in panel.series.values() for x, _ in points}))


@_draw_panel.register
def _draw_heat_map(panel: HeatMap, axes, styles: Mapping[str, Style]) -> None:
  image = axes.imshow(
    panel.weights, cmap=panel.palette, vmin=0, vmax=1, aspect='auto', interpolation='nearest'
  )
  available = 160 * _size_in_inches(panel)[0] / _PANEL[0]
  size = min(7, available / max(len(panel.columns), len(panel.rows), 1))
  axes.set_xticks(range(len(panel.columns)), panel.columns, rotation=90, fontsize=size)
  axes.set_yticks(range(len(panel.rows)), panel.rows, fontsize=size)
  axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
  axes.grid(visible=False)
  if panel.cell_labels:
    _write_cell_labels(panel, axes, 0.75 * size)
  if panel.scale_labels:
    bar = axes.figure.colorbar(image, ax=axes, aspect=30, pad=0.02)
    bar.set_ticks(list(panel.scale_labels), labels=list(panel.scale_labels.values()))
    bar.outline.set_visible(False)


def _write_cell_labels(heat_map: HeatMap, axes, font_size: float) -> None:
  """Writes a label into each cell of a heat map, and draws lines between the cells.

  Labels of more than four characters have a smaller font.
  """
  axes.set_xticks([column - 0.5 for column in range(len(heat_map.columns))], minor=True)
  axes.set_yticks([row - 0.5 for row in range(len(heat_map.rows))], minor=True)
  axes.tick_params(which='minor', length=0)
  axes.grid(which='minor')
  axes.set_axisbelow(False)
  for row, labels in enumerate(heat_map.cell_labels):
    for column, label in enumerate(labels):
      colour = 'white' if heat_map.weights[row][column] > _DARK_WEIGHT else _INK
      fontsize = font_size * min(1, 4 / max(1, len(label)))
      axes.text(column, row, label, fontsize=fontsize, color=colour, ha='center', va='center')


def _draw_curve(axes, points, style: Style, log_y: bool, z_order: int) -> None:
  """Draws estimates as a line with a confidence band, and isolated points with error bars."""
  points = sorted(points, key=lambda point: point[0])
  xs = [x for x, _ in points]
  # On a logarithmic axis, an interval with a lower bound <= 0 is drawn from the estimate upward.
  low = [y.estimate if log_y and y.low <= 0 else y.low for _, y in points]
  high = [y.high for _, y in points]
  axes.plot(xs, [y.estimate for _, y in points], zorder=z_order, **_line_properties(style))
  axes.fill_between(
    xs, low, high, color=style.colour, alpha=0.17, linewidth=0, zorder=z_order - 1)
  gaps = [True, *(not y.has_bounds for _, y in points), True]
  for i, x in enumerate(xs):
    if gaps[i] and gaps[i + 2] and not gaps[i + 1]:
      axes.vlines(x, low[i], high[i], color=style.colour, linewidth=1.2, zorder=z_order - 1)


def _set_length_ticks(axes, lengths: Sequence[float]) -> None:
  """Sets x-axis ticks at all lengths, or at every k-th length if there are more than seven."""
  step = max(1, math.ceil(len(lengths) / _MAX_TICKS))
  ticks = lengths[::-1][::step][::-1]
  axes.set_xticks(ticks, [f'{x:g}' if x < 1e6 else f'{x:.0f}' for x in ticks])
