"""What did each rung bring? From Elman to attention in one shell, at one budget.

  python -m experiments.ladder --preset=quick --layers=gru,mingru,mamba --runs=runs/quick

  elman                     a state, all of it rewritten at every step
  lstm, gru                 gates that depend on the state: it keeps what they say
  mingru                    gates that depend on the input alone: the recurrence is linear
  lru, s5                   linear with fixed decays, complex ones: parallel, but it cannot select
  mamba                     decays that depend on the input: it can
  retnet, gla               a matrix for a state: keys and values, under a decay
  deltanet, gated_deltanet  a key's old value is erased before the new one is written
  attention                 a state that grows: nothing has to be forgotten

Each layer is trained on recall, copying, adding, parity and selective copying. Beside its scores
stand the bytes of its state and the time of a training step, all layers' steps in turns in one run.
A convolution that sees a few tokens stands below: what lies beyond them it must fail.
"""

from experiments.lab.launch.study import SMOKE, Preset, Study, TaskGrid
from experiments.lab.results import scoreboard
from experiments.lab.results.measured import TIMING
from experiments.lab.results.trained import TRAINING
from experiments.ladder import tables
from experiments.ladder.claims import CLAIMS, CONTROL, CONTROLS

LADDER = (
  'elman', 'lstm', 'gru', 'mingru', 'lru', 's5', 'mamba', 'retnet', 'gla', 'deltanet',
  'gated_deltanet', 'attention',
)

PRESETS = {
  # Every line that `paper` goes through, in the least time.
  'smoke': Preset(
    layers=('elman', 'attention(num_heads=2)'),
    task_grids=(
      TaskGrid('recall(length=16, num_pairs=2, vocabulary_size=16)', (16,)),
      TaskGrid('parity(length=8)', (8,)),
    ),
    settings=SMOKE,
  ),
  # For two CPU cores: under twenty minutes.
  'quick': Preset(
    layers=(*LADDER, CONTROL),
    task_grids=(
      TaskGrid('recall(length=32, num_pairs=4, vocabulary_size=64)', (32,)),
      TaskGrid('copy_memory', (30,)),
      TaskGrid('adding', (50,)),
      TaskGrid('parity', (40,)),
      TaskGrid('selective_copying(length=32, num_tokens=4)', (32,)),
    ),
    settings={
      'steps': 300, 'batch_size': 32, 'validations': 10, 'learning_rates': (3e-3, 1e-2),
    },
  ),
  # Sizes for a GPU or a TPU.
  'paper': Preset(
    layers=(
      *LADDER[:4], 'minlstm', *LADDER[4:6], 's4d', 'rglru', 'mamba', 'mamba2', 'linear_attention',
      *LADDER[7:9], 'mlstm', 'slstm', *LADDER[9:11], 'rwkv7', 'hyena', 'sliding_window',
      'interleave', 'attention', CONTROL,
    ),
    task_grids=(
      TaskGrid('recall(length=128, num_pairs=8)', (128,), {'weight_decay': 0.1}),
      TaskGrid('copy_memory', (110,)),
      TaskGrid('adding', (200,)),
      TaskGrid('parity', (40,)),
      TaskGrid('selective_copying(length=256)', (256,)),
    ),
    settings={
      'batch_size': 128, 'steps': 12500, 'seeds': (0, 1, 2, 3, 4),
      'learning_rates': (1e-4, 4.64e-4, 2.15e-3, 1e-2), 'validation_batches': 16,
      'test_batches': 64,
    },
  ),
}


def report(records: list[dict]):
  """The study's tables and panels."""
  trained, timed = tables.split(records, PRESETS['paper'].layers)
  columns, layers = scoreboard.columns_of(trained), scoreboard.layers_of(trained)
  scored = scoreboard.score_table('Ladder: scores, state and time', columns, layers)
  budgets = scoreboard.budget_table('Ladder: budgets', columns, layers)
  return [tables.beside(scored, columns, timed), budgets], scoreboard.state_panels(trained)


STUDY = Study(
  'ladder', __doc__, PRESETS, report, CLAIMS, CONTROLS,
  cells='experiments.ladder.cells', kinds=(TRAINING, TIMING),
)
