"""How many tokens does an output depend on? Theoretical, measured and effective receptive fields.

  python -m experiments.receptive_field --preset=quick --layers=tcn,bytenet --runs=runs/quick

At initialisation, stacks of several depths, kernel sizes and dilations are measured. The
theoretical receptive field, which a stack declares, must equal the measured one, which is the
support of the Jacobian of its last output. Most of the gradient comes from a smaller, effective
field (Luo et al. 2016). Without residual connections it grows with the square root of the depth.

Then models are trained on copy memory at distances inside their receptive field, at its boundary
and beyond. In copy memory all symbols are at the same distance from their targets, so that a field
contains all of them or none. A model needs a field of d + 1 tokens or more to copy at a distance d.
The control is the score beyond the field, which has to be chance. Models with an unbounded field
are trained at the same distances. The effective fields of all models are measured during training.
"""

import dataclasses
from typing import Any

from experiments.lab.launch.study import SMOKE, Study, TaskGrid
from experiments.receptive_field.claims import CLAIMS, CONTROLS
from experiments.receptive_field.records import TRAINING_FIELDS, UNTRAINED_FIELDS
from experiments.receptive_field.tables import report

KERNELS = tuple(f'convolution(kernel_size={size})' for size in (2, 5))
DILATIONS = tuple(f'convolution(kernel_size=3, dilation={step})' for step in (2, 4))
STACKS = ('tcn(kernel_size=2)', 'tcn(levels=2)', 'bytenet(levels=3)', 'convs2s')
HYBRID = 'interleave(convolution, sliding_window(window=6))'
UNBOUNDED = ('attention', 'lstm', 'mamba')


@dataclasses.dataclass(frozen=True)
class Sweep:
  """Layers, depths and types of residual block, measured at initialisation in all combinations."""

  layers: tuple[str, ...]
  depths: tuple[int, ...]
  blocks: tuple[str, ...] = ('pre_norm',)


@dataclasses.dataclass(frozen=True)
class ReceptiveFieldPreset:
  """Layer stacks that are measured at initialisation, and models that are trained.

  Attributes:
    sweeps: the stacks to be measured at initialisation.
    initialised: the settings of these stacks.
    length: the length of the input sequences of stacks with an unbounded field.
    sequences: the number of input sequences.
    trained: the layers to be trained, with their depths.
    task_grids: the tasks on which they are trained, at distances that follow from their fields.
    settings: the settings of their training.

  """

  sweeps: tuple[Sweep, ...]
  initialised: dict[str, Any]
  length: int
  sequences: int
  trained: dict[str, tuple[int, ...]]
  task_grids: tuple[TaskGrid, ...]
  settings: dict[str, Any]


PRESETS = {
  # This preset runs all code of the `paper` preset at the smallest sizes, as a fast test.
  'smoke': ReceptiveFieldPreset(
    sweeps=(Sweep(('convolution',), (1, 2, 3)), Sweep(('attention',), (1,))),
    initialised={'width': 8, 'seeds': (0, 1)},
    length=8,
    sequences=2,
    trained={'convolution(kernel_size=5)': (1,), 'attention(num_heads=2)': (1,)},
    task_grids=(TaskGrid('copy_memory(delay=2, num_symbols=1)', ()),),
    settings=SMOKE,
  ),
  # This preset takes about six minutes on two CPU cores.
  'quick': ReceptiveFieldPreset(
    sweeps=(
      Sweep((*KERNELS, *DILATIONS), (1, 2, 4)),
      Sweep(('convolution(kernel_size=3)',), (1, 2, 4, 8), ('pre_norm', 'plain')),
      Sweep((*STACKS, 'sliding_window', HYBRID), (1, 2)),
      Sweep(UNBOUNDED, (1,)),
    ),
    initialised={'width': 16},
    length=32,
    sequences=4,
    trained={
      'convolution(kernel_size=9)': (2,), 'convolution(kernel_size=5)': (4,),
      'convolution(kernel_size=9, dilation=2)': (2,), 'attention': (2,), 'lstm': (2,),
    },
    task_grids=(TaskGrid('copy_memory(num_symbols=2)', ()),),
    settings={
      'width': 32, 'steps': 500, 'batch_size': 32, 'validations': 10,
      'learning_rates': (3e-3, 1e-2),
    },
  ),
  # The sizes of this preset need a GPU or a TPU.
  'paper': ReceptiveFieldPreset(
    sweeps=(
      Sweep(
        tuple(f'convolution(kernel_size={size}, dilation={step})'
              for size in (2, 3, 5, 9) for step in (1, 2, 4)),
        (1, 2, 4, 8, 16, 32), ('pre_norm', 'plain'),
      ),
      Sweep(
        ('tcn', *STACKS, 'bytenet', 'sliding_window', 'sliding_window(window=64)', HYBRID),
        (1, 2, 4, 8),
      ),
      Sweep((*UNBOUNDED, 'gru', 'gla', 'gated_deltanet', 'hyena'), (1, 2, 4, 8)),
    ),
    initialised={'width': 64, 'seeds': tuple(range(10))},
    length=256,
    sequences=16,
    trained={
      'convolution(kernel_size=3)': (4, 8, 32), 'convolution(kernel_size=9)': (2, 8),
      'convolution(kernel_size=9, dilation=4)': (2,), 'tcn': (1, 2), 'bytenet': (1, 2),
      'convs2s': (2, 4), 'sliding_window': (2, 4), 'attention': (2,), 'lstm': (2,), 'mamba': (2,),
    },
    task_grids=(TaskGrid('copy_memory(num_symbols=2)', ()),),
    settings={
      'width': 64, 'steps': 10000, 'batch_size': 128, 'seeds': (0, 1, 2, 3, 4),
      'learning_rates': (3e-4, 1e-3, 3e-3, 1e-2), 'validation_batches': 16, 'test_batches': 64,
    },
  ),
}


STUDY = Study(
  'receptive_field', __doc__, PRESETS, report, CLAIMS, CONTROLS,
  cells='experiments.receptive_field.cells', kinds=(TRAINING_FIELDS, UNTRAINED_FIELDS),
)
