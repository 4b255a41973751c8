"""What does length cost? Time and memory against sequence length, for every layer, in one shell.

  python -m experiments.parallelism --preset=quick --layers=attention,lstm --runs=runs/quick

A training step always has the same number of tokens, as few long sequences or as many short ones,
so that its time grows with the length only by what the layer makes of length. Generation goes on
from a position, by the same few tokens everywhere, so that its time grows only by what has to be
looked back at. Training steps, forward passes and generation of all layers at all lengths take
turns in one process, on one device (experiments/launch/timing.py).

A cell is one repetition of all this, with parameters and data of its own. Finished cells are
stored, and skipped next time; the device is part of what a cell is stored under, so that times of
two machines never meet in one table.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from absl import flags as absl_flags

from experiments.launch import flags

STUDY = 'parallelism'
SIZES = {
  'tokens': 'Tokens in a training step: every length divides it.',
  'sequences': 'Sequences that are generated side by side.',
  'generated': 'Tokens of each that are timed, from a position on; the positions are the lengths.',
}
MEBI = 2**20


@dataclasses.dataclass(frozen=True)
class Preset:
  """Layers, lengths, the sizes above, and the settings of the shell."""

  layers: tuple[str, ...]
  lengths: tuple[int, ...]
  tokens: int
  sequences: int
  generated: int
  settings: dict[str, Any]


PRESETS = {
  # Every line that `paper` goes through, in the least time.
  'smoke': Preset(
    layers=('attention(num_heads=2)', 'lstm'), lengths=(8, 12), tokens=48, sequences=2,
    generated=8, settings={'width': 8, 'depth': 1, 'steps': 2, 'seeds': (0, 1)},
  ),
  # The whole story at sizes for two CPU cores: about a minute.
  'quick': Preset(
    layers=('attention', 'lstm', 'gru', 'tcn'), lengths=(64, 256, 1024), tokens=4096,
    sequences=8, generated=32, settings={'steps': 7},
  ),
  # Sizes that fill a GPU or a TPU.
  'paper': Preset(
    layers=('attention', 'elman', 'lstm', 'gru', 'convolution', 'tcn'),
    lengths=(128, 256, 512, 1024, 2048, 4096, 8192, 16384), tokens=65536,
    sequences=16, generated=64,
    settings={
      'width': 256, 'depth': 4, 'feedforward': 'gelu', 'expansion': 4.0, 'steps': 20,
      'seeds': (0, 1, 2, 3, 4),
    },
  ),
}


def define() -> None:
  """The study's flags."""
  flags.define_study(
    PRESETS,
    steps='Timed rounds of a repetition; --seeds is how many repetitions there are.',
    lengths="Sequence lengths, and positions to generate from, instead of the preset's.",
  )
  for name, text in SIZES.items():
    absl_flags.DEFINE_integer(name, None, f"{text} Default: the preset's.")


def grid() -> list:
  """The cells that the flags ask for, one a repetition."""
  from experiments.launch import spec, timing
  from experiments.launch.errors import BadInput
  from experiments.launch.grid import Cell

  preset = flags.preset(PRESETS)
  for name in (*timing.UNUSED, 'parallel'):
    if flags.given(name):
      raise BadInput(f'--{name} means nothing here: one device is timed, at --tokens and --lengths')
  layers = spec.canonical(flags.FLAGS.layers if flags.given('layers') else preset.layers, 'layer')
  run = flags.make_run(**preset.settings | flags.settings())
  if len(run.learning_rates) > 1:
    raise BadInput('--learning_rates takes one here: the time of a step does not depend on it')
  sizes = {name: getattr(flags.FLAGS if flags.given(name) else preset, name) for name in SIZES}
  asked = timing.asked(
    run, layers, flags.lengths() or preset.lengths, timing.QUANTITIES, rounds=run.steps, **sizes
  )
  check(asked)
  return [Cell(STUDY, asked | {'seed': seed}, f'repetition {seed}') for seed in run.seeds]


def check(asked: dict) -> None:
  """A BadInput for sizes or lengths that make no batches."""
  from experiments.launch import build, spec, timing
  from experiments.launch.errors import BadInput

  for name in SIZES:
    if asked[name] < 1:
      raise BadInput(f'--{name} is 1 or more, not {asked[name]}')
  for length in asked['lengths']:
    if asked['tokens'] % length:
      raise BadInput(
        f'--tokens={asked["tokens"]} is no multiple of length {length}: sequences stay whole'
      )
    spec.parse(timing.run_of(asked, asked['layers'][0], length).task, 'task')
  for layer in asked['layers']:
    build.check(timing.run_of(asked, layer, asked['lengths'][0]))


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
  from experiments.results import times

  grids = times.grids(records)
  shown = [
    show(view, repetitions, alone=len(grids) == 1) for repetitions in grids for view in VIEWS
  ]
  return [table for table, _ in shown], [panel for _, panel in shown]


def show(view: View, records: Sequence[dict], alone: bool):
  """The table and the panel of one grid's records; `alone`: their titles need no more to tell."""
  from experiments.results import times
  from experiments.results.figures import Panel
  from experiments.results.table import Table

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
  from experiments.results import times
  from experiments.results.statistics import Interval

  if view.unit == 'MiB':
    every = [p for record in records for p in times.points(record, layer, view.quantity)]
    found = [p['bytes'] for p in every if p['length'] == length and p['bytes'] is not None]
    return Interval.bare(found[0] / MEBI, len(found)) if found else None
  return times.microseconds(records, layer, view.quantity, length)


def growth(view: View, records: Sequence[dict], layer: str, first: int, last: int):
  """The last length's value over the first's; of times, in pairs from the same rounds."""
  from experiments.results import times
  from experiments.results.statistics import Interval, ratio_interval

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
  from experiments.results import times

  run = records[0]['run']
  how = f'median and 95 % interval (rounds: {run["rounds"]}, repetitions: {len(records)})'
  if view.unit == 'MiB':
    how = 'temporary memory that the compiled program plans'
  where = times.setting(run, times.work(run, view.quantity))
  return f'{where}; {how}.{times.out_of_memory(records, view.quantity)}'


def main() -> None:
  """Measures the grid's missing cells, prints the tables and saves them with their figure."""
  from experiments.launch import environment, timing
  from experiments.launch import grid as grids
  from experiments.results import publish
  from experiments.results.store import Store

  # One device, so that all cores of a CPU work for it.
  environment.prepare(flags.FLAGS.host_devices or 1, flags.FLAGS.cache)
  cells, store = grid(), Store(flags.FLAGS.runs)
  records = grids.launch(cells, timing.execute(flags.FLAGS.timeout), store, flags.FLAGS.retry)
  publish.study(STUDY, *report(records), flags.FLAGS.runs)


if __name__ == '__main__':
  flags.main(main, define, __doc__)
