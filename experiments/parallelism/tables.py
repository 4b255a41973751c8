"""Time and memory against length: tables, growth from the shortest to the longest, and panels."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from experiments.lab.results import times
from experiments.lab.results.figures import Panel
from experiments.lab.results.statistics import Interval, ratio_interval
from experiments.lab.results.table import Table

MEBI = 2**20


class View(NamedTuple):
  """A table, and the panel that shows the same."""

  quantity: str
  title: str
  unit: str
  axis: str = 'sequence length'


VIEWS = (
  View('train', 'Training', 'microseconds a token'),
  View('forward', 'Forward pass', 'microseconds a token'),
  View('train', 'Memory of a training step', 'MiB'),
  View('generate', 'Generation', 'microseconds a token', 'position'),
)


def report(records: Iterable[dict]) -> tuple[list, list]:
  """Tables and figure panels; each device and each grid among the records gets its own."""
  grids = times.grids(records)
  shown = [
    show(view, repetitions, alone=len(grids) == 1) for repetitions in grids for view in VIEWS
  ]
  return [table for table, _ in shown], [panel for _, panel in shown]


def show(view: View, records: Sequence[dict], alone: bool):
  """The table and the panel of one grid's records; `alone`: their titles need no more to tell."""
  run = records[0]['run']
  layers, lengths = run['layers'], run['lengths']
  values = {layer: {n: estimate(view, records, layer, n) for n in lengths} for layer in layers}
  columns, rows = ['layer', *map(str, lengths)], [[n, *values[n].values()] for n in layers]
  if len(lengths) > 1:
    columns.append(f'{lengths[-1]} / {lengths[0]}')
    for row in rows:
      row.append(growth(view, records, row[0], lengths[0], lengths[-1]))
  title = times.title(view.title, records, alone)
  best = dict.fromkeys(map(str, lengths), 'lower')
  table = Table(f'{title}, {view.unit}', columns, rows, caption(view, records), best)
  series = {
    layer: [(n, value) for n, value in known.items() if value is not None]
    for layer, known in values.items()
  }
  return table, Panel(title, view.axis, view.unit, series, log_x=True, log_y=True)


def estimate(view: View, records: Sequence[dict], layer: str, length: int):
  """A cell of a table: the median of all rounds, or what a compiled program plans to hold."""
  if view.unit == 'MiB':
    every = [p for record in records for p in times.points(record, layer, view.quantity)]
    found = [p['bytes'] for p in every if p['length'] == length and p['bytes'] is not None]
    return Interval.bare(found[0] / MEBI, len(found)) if found else None
  return times.microseconds(records, layer, view.quantity, length)


def growth(view: View, records: Sequence[dict], layer: str, first: int, last: int):
  """The last length's value over the first's; of times, in pairs from the same rounds."""
  if view.unit == 'MiB':
    low, high = (estimate(view, records, layer, length) for length in (first, last))
    known = low and high and low.mean  # a program may need nothing but its arguments
    return Interval.bare(high.mean / low.mean, low.count) if known else None
  known = [times.per_token(record, layer, view.quantity) for record in records]
  both = [by_length for by_length in known if first in by_length and last in by_length]
  pooled = [[s for by_length in both for s in by_length[length]] for length in (last, first)]
  return ratio_interval(*pooled, paired=True) if both else None


def caption(view: View, records: Sequence[dict]) -> str:
  """On what, of what, how often; and which dashes are memory that was short."""
  run = records[0]['run']
  how = f'median and 95 % interval (rounds: {run["rounds"]}, repetitions: {len(records)})'
  if view.unit == 'MiB':
    how = 'temporary memory that the compiled program plans'
  where = times.setting(run, times.work(run, view.quantity))
  return f'{where}; {how}.{times.out_of_memory(records, view.quantity)}'
