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
from typing import Any

from absl import flags as absl_flags

from experiments.complexity.claims import CLAIMS, CONTROLS
from experiments.complexity.records import COUNTING
from experiments.complexity.tables import report
from experiments.lab.launch import flags
from experiments.lab.launch.study import Study
from experiments.lab.results.measured import GENERATING


@dataclasses.dataclass(frozen=True)
class ComplexityPreset:
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
  'smoke': ComplexityPreset(
    layers=('attention', 'lstm', 'convolution'), counted_lengths=(8, 16, 32, 64),
    widths=(8, 16, 32), path_lengths=(4, 8, 16), lengths=(8, 12), tokens=48, sequences=2,
    generated=8,
    settings={'width': 8, 'depth': 1, 'steps': 2, 'seeds': (0, 1), 'match': 'none'},
  ),
  # For two CPU cores.
  'quick': ComplexityPreset(
    counted_lengths=LENGTHS, widths=WIDTHS, path_lengths=PATHS, lengths=(64, 256, 1024, 4096),
    tokens=4096, sequences=4, generated=32,
    settings={'width': 64, 'depth': 1, 'steps': 7, 'seeds': (0,), 'match': 'none'},
  ),
  # Sizes that fill a GPU or a TPU.
  'paper': ComplexityPreset(
    counted_lengths=LENGTHS, widths=WIDTHS, path_lengths=PATHS,
    lengths=(128, 256, 512, 1024, 2048, 4096, 8192, 16384), tokens=65536, sequences=16,
    generated=64,
    settings={
      'width': 512, 'depth': 1, 'steps': 20, 'seeds': (0, 1, 2), 'match': 'none',
      'dtype': 'bfloat16',
    },
  ),
}


def define(presets) -> None:
  """The study's flags."""
  flags.define_study(
    presets,
    steps='Timed rounds of a repetition; --seeds is how many repetitions there are.',
    lengths="Sequence lengths to measure at, instead of the preset's.",
  )
  flags.define_workers()
  absl_flags.DEFINE_boolean('measure', True, 'Measure on this device, besides counting.')


# One device, so that all cores of a CPU work for it.
STUDY = Study(
  'complexity', __doc__, PRESETS, report, CLAIMS, CONTROLS, define,
  cells='experiments.complexity.cells', kinds=(COUNTING, GENERATING), devices=1,
)
