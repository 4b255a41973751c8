"""What does length cost? Time and memory against sequence length, for every layer, in one shell.

  python -m experiments.parallelism --preset=quick --layers=attention,lstm --runs=runs/quick

A training step always has the same number of tokens, as few long sequences or as many short ones,
so that its time grows with the length only by what the layer makes of length. Generation goes on
from a position, by the same few tokens everywhere, so that its time grows only by what has to be
looked back at. Training steps, forward passes and generation of all layers at all lengths take
turns in one process, on one device (experiments/lab/cells/timing.py).

A cell is one repetition of all this, with parameters and data of its own. Finished cells are
stored, and skipped next time; the device is part of what a cell is stored under, so that times of
two machines never meet in one table.
"""

import dataclasses
from typing import Any

from absl import flags as absl_flags

from experiments.lab.launch import flags
from experiments.lab.launch.study import Study
from experiments.lab.results.measured import GENERATING
from experiments.parallelism.claims import CLAIMS, CONTROLS
from experiments.parallelism.tables import report

SIZES = {
  'tokens': 'Tokens in a training step: every length divides it.',
  'sequences': 'Sequences that are generated side by side.',
  'generated': 'Tokens of each that are timed, from a position on; the positions are the lengths.',
}


@dataclasses.dataclass(frozen=True)
class ParallelismPreset:
  """Layers, lengths, the sizes above, and the settings of the shell."""

  layers: tuple[str, ...]
  lengths: tuple[int, ...]
  tokens: int
  sequences: int
  generated: int
  settings: dict[str, Any]


PRESETS = {
  # Every line that `paper` goes through, in the least time.
  'smoke': ParallelismPreset(
    layers=('attention(num_heads=2)', 'lstm'), lengths=(8, 12), tokens=48, sequences=2,
    generated=8, settings={'width': 8, 'depth': 1, 'steps': 2, 'seeds': (0, 1)},
  ),
  # The whole story at sizes for two CPU cores: about a minute.
  'quick': ParallelismPreset(
    layers=('attention', 'lstm', 'gru', 'tcn'), lengths=(64, 256, 1024), tokens=4096,
    sequences=8, generated=32, settings={'steps': 7},
  ),
  # Sizes that fill a GPU or a TPU.
  'paper': ParallelismPreset(
    layers=('attention', 'elman', 'lstm', 'gru', 'convolution', 'tcn'),
    lengths=(128, 256, 512, 1024, 2048, 4096, 8192, 16384), tokens=65536,
    sequences=16, generated=64,
    settings={
      'width': 256, 'depth': 4, 'feedforward': 'gelu', 'expansion': 4.0, 'steps': 20,
      'seeds': (0, 1, 2, 3, 4),
    },
  ),
}


def define(presets) -> None:
  """The study's flags."""
  flags.define_study(
    presets,
    steps='Timed rounds of a repetition; --seeds is how many repetitions there are.',
    lengths="Sequence lengths, and positions to generate from, instead of the preset's.",
  )
  for name, text in SIZES.items():
    absl_flags.DEFINE_integer(name, None, f'{text} {flags.of_presets(presets, name)}')


# One device, so that all cores of a CPU work for it.
STUDY = Study(
  'parallelism', __doc__, PRESETS, report, CLAIMS, CONTROLS, define,
  cells='experiments.parallelism.cells', kinds=(GENERATING,), devices=1,
)
