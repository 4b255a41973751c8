"""Complexity, sequential operations and path length of every layer, as in Table 1 of the paper.

  python -m experiments.complexity --preset=quick --runs=runs/quick

The study counts operations from the traced programs of a layer, so that the counts are the same on
every device. It counts the operations of a layer for n tokens at width d, the operations on the
longest chain of dependent operations, and the maximum path length between two positions. The first
two are also counted for training and for generating a token. Where the counts follow a growth law
exactly, the law is shown beside the published order (Vaswani et al. 2017). The study also measures,
on this device, the growth of time and memory with the sequence length, and the length from which
one layer becomes cheaper than another.

Many layers have two implementations. The implementation for an accelerator has short chains of
operations that run on many processors. The implementation for a CPU has fewer operations.
"""

import dataclasses
from typing import Any

from absl import flags as absl_flags

from experiments.complexity.claims import CLAIMS, CONTROLS
from experiments.complexity.records import COUNTING
from experiments.complexity.tables import report
from experiments.lab.launch import flags
from experiments.lab.launch.study import Study
from experiments.lab.results.timing_schema import GENERATING


@dataclasses.dataclass(frozen=True)
class ComplexityPreset:
  """Layers, sequence lengths and widths for which operations are counted and times are measured.

  Empty `layers` select all layers.
  """

  counted_lengths: tuple[int, ...]
  widths: tuple[int, ...]
  path_lengths: tuple[int, ...]
  lengths: tuple[int, ...]
  tokens: int
  sequences: int
  generated: int
  settings: dict[str, Any]
  layers: tuple[str, ...] = ()


LENGTHS = (512, 1024, 2048, 4096)  # powers of two, whose logarithms are integers
WIDTHS = (64, 128, 256)
PATHS = (64, 128, 256, 512)

PRESETS = {
  # The smoke preset runs all code of the paper preset at the smallest sizes.
  'smoke': ComplexityPreset(
    layers=('attention', 'lstm', 'convolution'), counted_lengths=(8, 16, 32, 64),
    widths=(8, 16, 32), path_lengths=(4, 8, 16), lengths=(8, 12), tokens=48, sequences=2,
    generated=8,
    settings={'width': 8, 'depth': 1, 'steps': 2, 'seeds': (0, 1), 'match': 'none'},
  ),
  # The quick preset has sizes for a machine with two CPU cores.
  'quick': ComplexityPreset(
    counted_lengths=LENGTHS, widths=WIDTHS, path_lengths=PATHS, lengths=(64, 256, 1024, 4096),
    tokens=4096, sequences=4, generated=32,
    settings={'width': 64, 'depth': 1, 'steps': 7, 'seeds': (0,), 'match': 'none'},
  ),
  # The paper preset has sizes that fully occupy a GPU or a TPU.
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


def define_flags(presets) -> None:
  flags.define_study_flags(
    presets,
    steps_help='Number of timed rounds per repetition; there is one repetition per seed.',
    lengths_help='Sequence lengths at which programs are timed, instead of those of the preset.',
  )
  flags.define_workers_flag()
  absl_flags.DEFINE_boolean(
    'measure', True, 'Measure durations and memory on this device, besides counting operations.')


# The study needs only one device, so the CPU is not split into several JAX devices.
STUDY = Study(
  'complexity', __doc__, PRESETS, report, CLAIMS, CONTROLS, define_flags,
  cells='experiments.complexity.cells', kinds=(COUNTING, GENERATING), devices=1,
)
