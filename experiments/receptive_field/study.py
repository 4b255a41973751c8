"""How far back does a layer see? The field declared, shown, effective, and what lies beyond it.

  python -m experiments.receptive_field --preset=quick --layers=tcn,bytenet --runs=runs/quick

Stacks of every depth, kernel and dilation, as they are initialised: the field that they declare
must be the one that the Jacobian shows, exactly. Most of the gradient comes from a smaller,
effective field (Luo et al. 2016), which without residuals grows with the root of the depth.

Then models learn to copy from right inside of their field, from its edge, and from beyond. In copy
memory all symbols are equally far, so that a field holds all of them or none: a distance d can be
bridged by a field of d + 1 tokens or more. Beyond that is the control, where nothing but chance is
possible; those whose field has no edge are asked the same. Their effective fields are watched.
"""

import dataclasses
from typing import Any

from experiments.lab.launch.study import SMOKE, Study, TaskGrid
from experiments.receptive_field.claims import CLAIMS, CONTROLS
from experiments.receptive_field.records import STACK, WATCHED_FIELD
from experiments.receptive_field.tables import report

KERNELS = tuple(f'convolution(kernel_size={size})' for size in (2, 5))
DILATIONS = tuple(f'convolution(kernel_size=3, dilation={step})' for step in (2, 4))
STACKS = ('tcn(kernel_size=2)', 'tcn(levels=2)', 'bytenet(levels=3)', 'convs2s')
HYBRID = 'interleave(convolution, sliding_window(window=6))'
UNBOUNDED = ('attention', 'lstm', 'mamba')


@dataclasses.dataclass(frozen=True)
class Sweep:
  """Layers, each at every depth in every shell, as they are initialised."""

  layers: tuple[str, ...]
  depths: tuple[int, ...]
  blocks: tuple[str, ...] = ('pre_norm',)


@dataclasses.dataclass(frozen=True)
class FieldPreset:
  """What is initialised and how, and which layers learn what, at which depths."""

  sweeps: tuple[Sweep, ...]
  initialised: dict[str, Any]  # settings
  length: int  # that stacks without a bound read
  sequences: int
  trained: dict[str, tuple[int, ...]]  # layer -> depths
  task_grids: tuple[TaskGrid, ...]  # their distances follow from the fields
  settings: dict[str, Any]


PRESETS = {
  # Every line that `paper` goes through, in the least time.
  'smoke': FieldPreset(
    sweeps=(Sweep(('convolution',), (1, 2, 3)), Sweep(('attention',), (1,))),
    initialised={'width': 8, 'seeds': (0, 1)},
    length=8,
    sequences=2,
    trained={'convolution(kernel_size=5)': (1,), 'attention(num_heads=2)': (1,)},
    task_grids=(TaskGrid('copy_memory(delay=2, num_symbols=1)', ()),),
    settings=SMOKE,
  ),
  # For two CPU cores: about six minutes.
  'quick': FieldPreset(
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
  # Sizes for a GPU or a TPU.
  'paper': FieldPreset(
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
  cells='experiments.receptive_field.cells', kinds=(WATCHED_FIELD, STACK),
)
