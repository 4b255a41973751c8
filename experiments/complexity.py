"""Table 1, measured: complexity, sequential operations and path length of every layer.

  python -m experiments.complexity --preset=quick --runs=runs/quick

Counted, from the programs themselves and therefore the same on every device: how many operations a
layer takes to read n tokens at width d, how many of them must follow one another, and how many lie
between two positions that are far apart; for training and for generating a token, too. A law is
found where the counts follow one exactly, and stands beside what the paper says. Measured, on this
device: how time and memory grow with length, and at which length one layer overtakes another.

Layers have forms. Those that are counted first are made for many processors, with short chains of
operations; those for a CPU, where the least work wins, stand beside them.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from absl import flags as absl_flags

from experiments.launch import flags

STUDY = 'complexity'
FORMS = {'gpu': 'for an accelerator', 'cpu': 'for a CPU'}
# Layers that choose a form by the length, in one that suits what the paper counts.
COUNTED = {
  'attention': 'attention(form=naive)',
  'sliding_window': 'sliding_window(form=banded)',
  'interleave': 'interleave(rglru, rglru, sliding_window(form=banded))',
}
# Vaswani et al. 2017, Table 1, and the sentences after it on contiguous and dilated kernels.
PAPER = {
  'attention': ('Self-Attention', 'O(n² · d)', 'O(1)', 'O(1)'),
  'elman': ('Recurrent', 'O(n · d²)', 'O(n)', 'O(n)'),
  'lstm': ('Recurrent', 'O(n · d²)', 'O(n)', 'O(n)'),
  'gru': ('Recurrent', 'O(n · d²)', 'O(n)', 'O(n)'),
  'convolution': ('Convolutional', 'O(k · n · d²)', 'O(1)', 'O(n/k)'),
  'tcn': ('Convolutional (dilated)', 'O(k · n · d²)', 'O(1)', 'O(logₖ(n))'),
  'sliding_window': ('Self-Attention (restricted)', 'O(r · n · d)', 'O(1)', 'O(n/r)'),
}
SYMBOLS = {'window': 'r', 'kernel_size': 'k'}


@dataclasses.dataclass(frozen=True)
class Preset:
  """Sizes to count at, and to measure at; no layers: the whole catalogue, the paper's first."""

  counted_lengths: tuple[int, ...]
  widths: tuple[int, ...]
  path_lengths: tuple[int, ...]
  lengths: tuple[int, ...]
  tokens: int
  sequences: int
  generated: int
  settings: dict[str, Any]
  layers: tuple[str, ...] = ()


LENGTHS = (512, 1024, 2048, 4096)  # powers of two, so that logarithms are whole
WIDTHS = (64, 128, 256)
PATHS = (64, 128, 256, 512)

PRESETS = {
  # Every line that `paper` goes through, in the least time.
  'smoke': Preset(
    layers=('attention', 'lstm', 'convolution'), counted_lengths=(8, 16, 32, 64),
    widths=(8, 16, 32), path_lengths=(4, 8, 16), lengths=(8, 12), tokens=48, sequences=2,
    generated=8,
    settings={'width': 8, 'depth': 1, 'steps': 2, 'seeds': (0, 1), 'match': 'none'},
  ),
  # For two CPU cores.
  'quick': Preset(
    counted_lengths=LENGTHS, widths=WIDTHS, path_lengths=PATHS, lengths=(64, 256, 1024, 4096),
    tokens=4096, sequences=4, generated=32,
    settings={'width': 64, 'depth': 1, 'steps': 7, 'seeds': (0,), 'match': 'none'},
  ),
  # Sizes that fill a GPU or a TPU.
  'paper': Preset(
    counted_lengths=LENGTHS, widths=WIDTHS, path_lengths=PATHS,
    lengths=(128, 256, 512, 1024, 2048, 4096, 8192, 16384), tokens=65536, sequences=16,
    generated=64,
    settings={
      'width': 512, 'depth': 1, 'steps': 20, 'seeds': (0, 1, 2), 'match': 'none',
      'dtype': 'bfloat16',
    },
  ),
}


def define() -> None:
  """The study's flags."""
  flags.define_study(
    PRESETS,
    steps='Timed rounds of a repetition; --seeds is how many repetitions there are.',
    lengths="Sequence lengths to measure at, instead of the preset's.",
  )
  flags.define_workers()
  absl_flags.DEFINE_boolean('measure', True, 'Measure on this device, besides counting.')


def layers(preset: Preset) -> list[str]:
  """The layers that are asked for, in the paper's order and then the catalogue's."""
  from baselines import LAYERS
  from experiments.launch import spec

  if flags.given('layers'):
    return spec.canonical(flags.FLAGS.layers, 'layer')
  return spec.canonical(preset.layers or tuple(PAPER | LAYERS), 'layer')


def counting_cells(preset: Preset) -> list:
  """A cell for each layer in each of the forms."""
  from experiments.launch import counting, spec
  from experiments.launch.grid import Cell

  cells = []
  for layer in layers(preset):
    (counted,) = spec.canonical((COUNTED.get(layer, layer),), 'layer')
    for platform, words in FORMS.items():
      # Laws in the width are those of the first form: of the others, the chains are what differs.
      widths = preset.widths if platform == next(iter(FORMS)) else preset.widths[:1]
      run = counting.asked(
        counted, platform, preset.counted_lengths, widths, preset.path_lengths)
      counting.check(run)
      cells.append(Cell(STUDY, run, f'counting {layer} {words}'))
  return cells


def timing_cells(preset: Preset) -> list:
  """A cell for each repetition of all layers at all lengths."""
  from experiments.launch import build, timing
  from experiments.launch.errors import BadInput
  from experiments.launch.grid import Cell

  for name in (*timing.UNUSED, 'parallel', 'learning_rates'):
    if flags.given(name):
      raise BadInput(f'--{name} means nothing here: nothing is trained')
  run = flags.make_run(**preset.settings | flags.settings())
  sizes = {name: getattr(preset, name) for name in ('tokens', 'sequences', 'generated')}
  lengths = flags.lengths() or preset.lengths
  for length in lengths:
    if preset.tokens % length:
      raise BadInput(f'{preset.tokens} tokens a step are no multiple of length {length}')
  asked = timing.asked(
    run, layers(preset), lengths, ('train', 'generate'), rounds=run.steps, **sizes
  )
  for layer in asked['layers']:
    build.check(timing.run_of(asked, layer, lengths[0]))
  return [Cell(STUDY, asked | {'seed': seed}, f'repetition {seed}') for seed in run.seeds]


def report(records: Sequence[dict]):
  """Tables of what was counted and measured, and the maps of who overtakes whom."""
  from experiments.results import counts, crossovers, exponents, times

  counted = [r for r in records if 'platform' in r['run'] and r['status'] == 'finished']
  timed = times.grids(filter(times.is_timed, records))
  tables, panels, alone = [], [], len(timed) == 1
  if counted:
    names = {counting: name for name, counting in COUNTED.items()}
    tables += counts.tables(counted, names, PAPER, FORMS, SYMBOLS)
    panels += counts.panels(counted, names, FORMS)
  for grid in timed:
    orders = {name: said[1] for name, said in PAPER.items()}
    if len(grid[0]['run']['lengths']) > 1:
      tables.append(exponents.table(grid, orders, alone))
    if len(grid[0]['run']['layers']) > 1:
      tables.append(crossovers.sentences(grid, alone))
      panels += crossovers.panels(grid, alone)
  return tables, panels


def main() -> None:
  """Counts and measures what the store lacks, prints the tables, leaves them with their figure."""
  from experiments.launch import counting, environment, timing
  from experiments.launch import grid as grids
  from experiments.results import publish
  from experiments.results.store import Store

  # One device, so that all cores of a CPU work for it.
  environment.prepare(flags.FLAGS.host_devices or 1, flags.FLAGS.cache)
  preset, store = flags.preset(PRESETS), Store(flags.FLAGS.runs)
  counted = counting_cells(preset)
  timed = timing_cells(preset) if flags.FLAGS.measure else []
  records = grids.launch(
    counted, counting.execute, store, flags.FLAGS.retry,
    environment.one_a_core(flags.FLAGS.workers),
  )
  records += grids.launch(timed, timing.execute(flags.FLAGS.timeout), store, flags.FLAGS.retry)
  publish.study(STUDY, *report(records), flags.FLAGS.runs)


if __name__ == '__main__':
  flags.main(main, define, __doc__)
