"""Over which distance can a layer retain tokens? Scores by distance, at equal training budgets.

  python -m experiments.retention --preset=quick --layers=attention,lstm --runs=runs/quick

There are four tasks at growing distances. In associative recall the number of pairs grows with the
length, in copy memory the delay grows, in the adding problem the length, and in real text the
context. Each layer is trained separately at each distance, with every seed and learning rate, and
in the same residual block. The learning rate is selected on the validation split, and the score is
measured on the test split. Finished trainings are stored, and skipped by the next run.
"""

from experiments.lab.launch.study import SMOKE, Preset, Study, TaskGrid
from experiments.lab.results import scoreboard
from experiments.retention.claims import CLAIMS, CONTROLS

# Training does not stop early at a high score, so that losses can reach the published values.
PUBLISHED = {'steps': 20000, 'stop_when_solved': False}

PRESETS = {
  # This preset runs all code of the `paper` preset at the smallest sizes, as a fast test.
  'smoke': Preset(
    layers=('attention(num_heads=2)', 'lstm'),
    task_grids=(
      TaskGrid('recall(length=16, num_pairs=2, vocabulary_size=16)', (16,)),
      TaskGrid('copy_memory(delay=4, num_symbols=2)', (6,)),
      TaskGrid('adding(length=8)', (8,)),
      TaskGrid('text(length=16)', (16,)),
    ),
    settings=SMOKE,
  ),
  # This preset trains on all tasks, in about ten minutes on two CPU cores.
  'quick': Preset(
    layers=('attention', 'lstm', 'gru', 'tcn'),
    task_grids=(
      TaskGrid('recall(length=32, num_pairs=4, vocabulary_size=64)', (16, 32, 48)),
      TaskGrid('copy_memory', (30, 60)),  # the receptive field of this TCN is 57 tokens
      TaskGrid('adding', (50,), {'steps': 200}),
      TaskGrid('text', (64,), {'steps': 200, 'feedforward': 'gelu'}),
    ),
    settings={
      'steps': 600, 'batch_size': 32, 'validations': 15, 'learning_rates': (3e-3, 1e-2),
    },
  ),
  # The sizes of Arora et al. 2024, Bai et al. 2018 and Arjovsky et al. 2016 need a GPU or a TPU.
  'paper': Preset(
    layers=(
      'attention', 'elman', 'lstm', 'gru', 'convolution', 'tcn', 'tcn(kernel_size=8, levels=8)'
    ),
    task_grids=(
      TaskGrid(
        'recall(length=64, num_pairs=4)', (64, 128, 256),
        {'steps': 12500, 'batch_size': 512, 'weight_decay': 0.1},
      ),
      TaskGrid(
        'recall(length=512, num_pairs=64)', (512,),
        {'steps': 50000, 'batch_size': 128, 'weight_decay': 0.1},
      ),
      TaskGrid('copy_memory', (30, 110, 210, 310, 510, 1010), PUBLISHED),
      TaskGrid('copy_memory(variant=bai)', (510, 1010), PUBLISHED),
      TaskGrid('adding', (200, 400, 600), PUBLISHED),
      TaskGrid('adding(variant=bai)', (200, 400, 600), PUBLISHED),
      TaskGrid(
        'text(length=64)', (64, 256, 1024, 4096),
        {'steps': 20000, 'width': 256, 'depth': 4, 'feedforward': 'gelu', 'expansion': 4.0},
      ),
    ),
    settings={
      'width': 64, 'batch_size': 64, 'seeds': (0, 1, 2, 3, 4),
      'learning_rates': (1e-4, 4.64e-4, 2.15e-3, 1e-2), 'validation_batches': 16,
      'test_batches': 64, 'schedule': 'cosine',
    },
  ),
}


def report(records: list[dict]):
  """Tables of scores, training budgets and published results, and panels of scores by distance."""
  columns = scoreboard.group_by_table_column(records)
  layers = scoreboard.layers_in_record_order(records)
  tables = [
    scoreboard.table_of_test_metrics('Retention: score against distance', columns, layers),
    scoreboard.parameter_budget_table(
      'Retention: parameter budgets and training time', columns, layers),
    *scoreboard.tables_of_published_numbers(records),
  ]
  return tables, scoreboard.panels_of_test_metrics(records)


STUDY = Study('retention', __doc__, PRESETS, report, CLAIMS, CONTROLS)
