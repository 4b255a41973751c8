"""Scores, state size and step time of recurrent layers and attention, at equal training budgets.

  python -m experiments.ladder --preset=quick --layers=gru,mingru,mamba --runs=runs/quick

  elman                     the whole state is overwritten at every step
  lstm, gru                 gates that depend on the state decide how much of it is kept
  mingru                    gates depend on the input alone, so that the recurrence is linear
  lru, s5                   a linear recurrence with fixed complex decays, which can be computed in
                            parallel but cannot select inputs
  mamba                     decays depend on the input, so that inputs can be selected
  retnet, gla               the state is a matrix of keys and values that decays
  deltanet, gated_deltanet  the stored value of a key is erased before the new value is written
  attention                 the state grows with the sequence, so that nothing is forgotten

All layers have the same residual block and a matched number of parameters. Each is trained on
recall, copying, adding, parity and selective copying. The table of scores also has the bytes of the
state and the time of a training step, measured for all layers in interleaved rounds of one run. A
convolution with a receptive field of a few tokens is the control. It has to fail beyond that field.
"""

from experiments.lab.launch.study import SMOKE, Preset, Study, TaskGrid
from experiments.lab.results import scoreboard
from experiments.lab.results.timing_schema import TIMING
from experiments.lab.results.training_schema import TRAINING
from experiments.ladder import tables
from experiments.ladder.claims import CLAIMS, CONTROL, CONTROLS

LADDER = (
  'elman', 'lstm', 'gru', 'mingru', 'lru', 's5', 'mamba', 'retnet', 'gla', 'deltanet',
  'gated_deltanet', 'attention',
)

PRESETS = {
  # This preset runs all code of the `paper` preset at the smallest sizes, as a fast test.
  'smoke': Preset(
    layers=('elman', 'attention(num_heads=2)'),
    task_grids=(
      TaskGrid('recall(length=16, num_pairs=2, vocabulary_size=16)', (16,)),
      TaskGrid('parity(length=8)', (8,)),
    ),
    settings=SMOKE,
  ),
  # This preset takes less than twenty minutes on two CPU cores.
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
  # The sizes of this preset need a GPU or a TPU.
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
  """Tables of scores and training budgets, and panels of scores against the state size."""
  trained, timed = tables.split_training_and_timing_records(records, PRESETS['paper'].layers)
  columns = scoreboard.group_by_table_column(trained)
  layers = scoreboard.layers_in_record_order(trained)
  scores = scoreboard.table_of_test_metrics(
    'Layers from Elman to attention: scores, state size and step time', columns, layers)
  budgets = scoreboard.parameter_budget_table(
    'Layers from Elman to attention: parameter budgets and training time', columns, layers)
  panels = scoreboard.panels_of_metric_against_state_size(trained)
  return [tables.insert_state_size_and_step_time_columns(scores, columns, timed), budgets], panels


STUDY = Study(
  'ladder', __doc__, PRESETS, report, CLAIMS, CONTROLS,
  cells='experiments.ladder.cells', kinds=(TRAINING, TIMING),
)
