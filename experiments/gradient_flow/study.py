"""Does the gradient vanish with distance? Gradient norms of layers before and during training.

  python -m experiments.gradient_flow --preset=quick --layers=elman,attention --runs=runs/quick

The dependence of the last output of a stack of blocks on the input k tokens earlier is the Jacobian
d y_T / d x_{T - k}. It is computed row by row by reverse-mode differentiation, without finite
differences. Its norm is measured over k.

  at initialisation   every layer alone, then some layers in all residual blocks and at several
                      depths, with other biases of the forget gate and other recurrent weights,
                      without a task and without training
  during training     recurrent networks and attention on the adding problem, with and without
                      gradient clipping, in several residual blocks, with the same norms at every
                      evaluation beside the score

An exponential and a power of k are fitted to the norms. Half-lives are in tokens, and a verdict
such as vanishing or exploding rests on an interval over seeds. Through several blocks of attention
the first tokens have the most paths to the output, so that the gradient grows with the distance.
The control is a convolution, whose gradient beyond its receptive field is exactly zero.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.gradient_flow.claims import CLAIMS, CONTROL, CONTROLS
from experiments.gradient_flow.records import TRAINING_NORMS, UNTRAINED_NORMS
from experiments.gradient_flow.tables import report
from experiments.lab.launch import flags
from experiments.lab.launch.study import SMOKE, Study, TaskGrid

BLOCKS = ('plain', 'no_norm', 'pre_norm', 'post_norm')


@dataclasses.dataclass(frozen=True)
class LayerGrid:
  """Layers, and settings that are varied for each layer.

  The grid contains all available layers if `layers` is empty.
  """

  layers: tuple[str, ...] = ()
  varied: Mapping[str, Sequence] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class GradientPreset:
  """Layers to measure at initialisation, layers and tasks to train, and common model settings."""

  untrained: tuple[LayerGrid, ...]
  length: int  # of sequences at initialisation, in tokens
  trained: tuple[LayerGrid, ...]
  task_grids: tuple[TaskGrid, ...]
  settings: dict[str, Any]


BIASES = ('lstm(forget_bias=0.0)', 'lstm(forget_bias=3.0)')
RECURRENT_WEIGHTS = ('elman(recurrent_init=normal)', 'elman(recurrent_gain=2.0)')

PRESETS = {
  # This preset runs all code of the `paper` preset at the smallest sizes, as a fast test.
  'smoke': GradientPreset(
    untrained=(
      LayerGrid(('elman', CONTROL)), LayerGrid(('elman',), {'block': ('plain', 'pre_norm')}),
    ),
    length=12,
    trained=(LayerGrid(('elman',), {'clip': (1.0, 0.0)}),),
    task_grids=(TaskGrid('adding', (8,)),),
    settings=SMOKE | {'match': 'none'},
  ),
  # This preset takes about five minutes on two CPU cores.
  'quick': GradientPreset(
    untrained=(
      LayerGrid(),
      LayerGrid(('elman', 'lstm', 'attention'), {'depth': (2, 4)}),
      LayerGrid(('elman', 'lstm', 'attention'), {'depth': (4,), 'block': BLOCKS}),
      LayerGrid((*BIASES, *RECURRENT_WEIGHTS)),
    ),
    length=128,
    trained=(
      LayerGrid(('elman', RECURRENT_WEIGHTS[1], 'lstm'), {'clip': (1.0, 0.0)}),
      LayerGrid(('elman', 'lstm'), {'block': ('pre_norm', 'post_norm')}),
      LayerGrid(('attention',), {'block': ('pre_norm',)}),
      LayerGrid(('gru', *BIASES, RECURRENT_WEIGHTS[0])),
    ),
    task_grids=(TaskGrid('adding', (64,)),),
    settings={
      'width': 32, 'depth': 1, 'block': 'plain', 'match': 'none', 'steps': 300,
      'batch_size': 32, 'validations': 6, 'learning_rates': (3e-3, 1e-2),
      'seeds': (0, 1, 2, 3, 4), 'stop_when_solved': False,
    },
  ),
  # The sizes of this preset need a GPU.
  'paper': GradientPreset(
    untrained=(
      LayerGrid(),
      LayerGrid(
        ('elman', 'lstm', 'gru', 'attention', 'mamba', 'lru', 'gated_deltanet', 'tcn'),
        {'depth': (1, 2, 4, 8), 'block': BLOCKS},
      ),
      LayerGrid((
        *BIASES, 'lstm(forget_bias=6.0)', *RECURRENT_WEIGHTS, 'lstm(recurrent_init=normal)',
        'gru(recurrent_init=normal)',
      )),
    ),
    length=512,
    trained=(
      LayerGrid(
        ('elman', RECURRENT_WEIGHTS[1], 'lstm', 'gru', 'attention', 'mamba'),
        {'clip': (1.0, 0.0), 'block': BLOCKS},
      ),
      LayerGrid((*BIASES, RECURRENT_WEIGHTS[0])),
    ),
    task_grids=(TaskGrid('adding', (200,)), TaskGrid('copy_memory', (110,))),
    settings={
      'width': 128, 'depth': 2, 'block': 'plain', 'match': 'none', 'steps': 20000,
      'batch_size': 64, 'seeds': (0, 1, 2, 3, 4), 'learning_rates': (3e-4, 1e-3, 3e-3),
      'validation_batches': 16, 'test_batches': 64, 'stop_when_solved': False,
    },
  ),
}


def define_flags(presets) -> None:
  flags.define_study_flags(
    presets,
    steps_help='Number of training steps.',
    lengths_help='Sequence lengths of models at initialisation and distances of tasks in training, '
                 'in tokens and separated by commas, instead of those of the preset.',
  )
  flags.define_task_flags()


STUDY = Study(
  'gradient_flow', __doc__, PRESETS, report, CLAIMS, CONTROLS, define_flags,
  cells='experiments.gradient_flow.cells', kinds=(TRAINING_NORMS, UNTRAINED_NORMS),
)
