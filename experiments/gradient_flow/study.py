"""How far do gradients flow? Their norm against distance, before training and during it.

  python -m experiments.gradient_flow --preset=quick --layers=elman,attention --runs=runs/quick

What the last output of a stack of blocks owes to the token k steps before it is the Jacobian
d y_T / d x_{T - k}, taken row by row, never by finite differences. Its norm is followed over k:

  at initialisation   every layer by itself; then some in all shells and at depths, with other
                      biases of the forget gate and other recurrent weights; no task, no training
  during training     recurrent networks and attention on the adding problem, with and without
                      clipping, in several shells: the same norms at every look, and the score

An exponential and a power of k are fitted; half-lives are in tokens, and whether a gradient is
vanishing or exploding is said by an interval over seeds. Through several blocks of attention the
first tokens have the most paths, so that there a gradient grows with the distance. A convolution
has exactly no gradient beyond its receptive field: that is the control.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.gradient_flow.claims import CLAIMS, CONTROL, CONTROLS
from experiments.gradient_flow.records import START, WATCHED_FLOW
from experiments.gradient_flow.tables import report
from experiments.lab.launch import flags
from experiments.lab.launch.study import SMOKE, Study, TaskGrid

BLOCKS = ('plain', 'no_norm', 'pre_norm', 'post_norm')


@dataclasses.dataclass(frozen=True)
class Grid:
  """Layers, each with every combination of settings; no layers: the whole catalogue."""

  layers: tuple[str, ...] = ()
  varied: Mapping[str, Sequence] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class GradientPreset:
  """What is looked at before training, on sequences of a length, and what is trained."""

  start: tuple[Grid, ...]
  length: int
  trained: tuple[Grid, ...]
  task_grids: tuple[TaskGrid, ...]
  settings: dict[str, Any]


BIASES = ('lstm(forget_bias=0.0)', 'lstm(forget_bias=3.0)')
RECURRENT_WEIGHTS = ('elman(recurrent_init=normal)', 'elman(recurrent_gain=2.0)')

PRESETS = {
  # Every line that `paper` goes through, in the least time.
  'smoke': GradientPreset(
    start=(Grid(('elman', CONTROL)), Grid(('elman',), {'block': ('plain', 'pre_norm')})),
    length=12,
    trained=(Grid(('elman',), {'clip': (1.0, 0.0)}),),
    task_grids=(TaskGrid('adding', (8,)),),
    settings=SMOKE | {'match': 'none'},
  ),
  # For two CPU cores: about five minutes.
  'quick': GradientPreset(
    start=(
      Grid(),
      Grid(('elman', 'lstm', 'attention'), {'depth': (2, 4)}),
      Grid(('elman', 'lstm', 'attention'), {'depth': (4,), 'block': BLOCKS}),
      Grid((*BIASES, *RECURRENT_WEIGHTS)),
    ),
    length=128,
    trained=(
      Grid(('elman', RECURRENT_WEIGHTS[1], 'lstm'), {'clip': (1.0, 0.0)}),
      Grid(('elman', 'lstm'), {'block': ('pre_norm', 'post_norm')}),
      Grid(('attention',), {'block': ('pre_norm',)}),
      Grid(('gru', *BIASES, RECURRENT_WEIGHTS[0])),
    ),
    task_grids=(TaskGrid('adding', (64,)),),
    settings={
      'width': 32, 'depth': 1, 'block': 'plain', 'match': 'none', 'steps': 300,
      'batch_size': 32, 'validations': 6, 'learning_rates': (3e-3, 1e-2),
      'seeds': (0, 1, 2, 3, 4), 'stop_when_solved': False,
    },
  ),
  # Sizes for a GPU.
  'paper': GradientPreset(
    start=(
      Grid(),
      Grid(
        ('elman', 'lstm', 'gru', 'attention', 'mamba', 'lru', 'gated_deltanet', 'tcn'),
        {'depth': (1, 2, 4, 8), 'block': BLOCKS},
      ),
      Grid((
        *BIASES, 'lstm(forget_bias=6.0)', *RECURRENT_WEIGHTS, 'lstm(recurrent_init=normal)',
        'gru(recurrent_init=normal)',
      )),
    ),
    length=512,
    trained=(
      Grid(
        ('elman', RECURRENT_WEIGHTS[1], 'lstm', 'gru', 'attention', 'mamba'),
        {'clip': (1.0, 0.0), 'block': BLOCKS},
      ),
      Grid((*BIASES, RECURRENT_WEIGHTS[0])),
    ),
    task_grids=(TaskGrid('adding', (200,)), TaskGrid('copy_memory', (110,))),
    settings={
      'width': 128, 'depth': 2, 'block': 'plain', 'match': 'none', 'steps': 20000,
      'batch_size': 64, 'seeds': (0, 1, 2, 3, 4), 'learning_rates': (3e-4, 1e-3, 3e-3),
      'validation_batches': 16, 'test_batches': 64, 'stop_when_solved': False,
    },
  ),
}


def define(presets) -> None:
  """The study's flags."""
  flags.define_study(
    presets,
    steps='Training steps.',
    lengths="Lengths before training, and distances of the tasks, instead of the preset's.",
  )
  flags.define_training()


STUDY = Study(
  'gradient_flow', __doc__, PRESETS, report, CLAIMS, CONTROLS, define,
  cells='experiments.gradient_flow.cells', kinds=(WATCHED_FLOW, START),
)
