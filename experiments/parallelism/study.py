"""How do time and memory grow with sequence length? Training and generation are measured.

  python -m experiments.parallelism --preset=quick --layers=attention,lstm --runs=runs/quick

A training step always has the same number of tokens, in a few long or in many short sequences. Its
time therefore grows with the length only if the layer's cost per token does. Generation continues
from a position by a fixed number of tokens, so its time grows with the position only if a token
costs more after a longer prefix. Training steps, forward passes, single layers with and without
their gradients, and generation are timed for all layers at all lengths in interleaved rounds in one
process on one device (experiments/lab/cells/timing.py). The operations, the memory and the time to
compile a training step belong to the same programs. The same type of residual block surrounds every
layer.

A grid cell is one repetition of all these measurements with its own parameters and data. Finished
grid cells are stored and skipped in later runs. The device is part of a grid cell's key, so the
times of two machines are never combined in one table.
"""

import dataclasses
from typing import Any

from absl import flags as absl_flags

from experiments.lab.launch import flags
from experiments.lab.launch.study import Study
from experiments.lab.results.timing_schema import GENERATING
from experiments.parallelism.claims import CLAIMS, CONTROLS
from experiments.parallelism.tables import report

SIZES = {
  'tokens': 'Tokens in a training step, a multiple of every length.',
  'sequences': 'Sequences that are generated in parallel.',
  'generated': 'Timed tokens per generated sequence, after a prefix of each of the lengths.',
}


@dataclasses.dataclass(frozen=True)
class ParallelismPreset:
  """Layers, sequence lengths, batch sizes and run settings of a preset."""

  layers: tuple[str, ...]  # () for all
  lengths: tuple[int, ...]
  tokens: int
  sequences: int
  generated: int
  settings: dict[str, Any]
  timed_operations: tuple[str, ...] = ()  # of the list in lab/cells/timing.py; () for all


PRESETS = {
  # This preset runs all code paths of the `paper` preset at the smallest sizes.
  'smoke': ParallelismPreset(
    layers=('attention(num_heads=2)', 'lstm'), lengths=(8, 12), tokens=48, sequences=2,
    generated=8, settings={'width': 8, 'depth': 1, 'steps': 2, 'seeds': (0, 1)},
  ),
  # This preset measures the main layers in a few minutes on two CPU cores.
  'quick': ParallelismPreset(
    layers=('attention', 'lstm', 'gru', 'tcn'), lengths=(64, 256, 1024), tokens=4096,
    sequences=8, generated=32, settings={'steps': 7},
  ),
  # This preset measures the training of all layers on short and on long sequences.
  'layers': ParallelismPreset(
    layers=(), lengths=(64, 16384), tokens=16384, sequences=8, generated=32,
    settings={'steps': 5}, timed_operations=('train', 'layer', 'layer_gradient'),
  ),
  # The sizes of this preset keep a GPU or a TPU fully occupied.
  'paper': ParallelismPreset(
    layers=('attention', 'elman', 'lstm', 'gru', 'convolution', 'tcn'),
    lengths=(128, 256, 512, 1024, 2048, 4096, 8192, 16384), tokens=65536,
    sequences=16, generated=64,
    settings={
      'width': 256, 'depth': 4, 'feedforward': 'gelu', 'expansion': 4.0, 'steps': 20,
      'seeds': (0, 1, 2, 3, 4),
    },
    timed_operations=('train', 'forward', 'generate'),
  ),
}


def define_flags(presets) -> None:
  flags.define_study_flags(
    presets,
    steps_help='Timed rounds of a repetition; --seeds is the number of repetitions.',
    lengths_help="Sequence lengths, and prefix lengths of generation, instead of the preset's.",
  )
  for name, text in SIZES.items():
    absl_flags.DEFINE_integer(name, None, f'{text} {flags.format_preset_values(presets, name)}')


# JAX treats the CPU as a single device, so that each computation uses all cores. Compiled programs
# are not kept for later commands, because the time to compile them is measured.
STUDY = Study(
  'parallelism', __doc__, PRESETS, report, CLAIMS, CONTROLS, define_flags,
  cells='experiments.parallelism.cells', kinds=(GENERATING,), caches=False, devices=1,
)
