"""Who remembers? Score against distance, for every layer, in one shell and at one budget.

  python -m experiments.retention --preset=quick --layers=attention,lstm --runs=runs/quick

Four questions, each at growing distances: associative recall (pairs and length grow), copy memory
(the delay grows), the adding problem (the length grows) and real text (the context grows). Each
layer is trained anew at each distance with every seed and learning rate; the rate is chosen on
validation, the score is from the test split. Finished cells are stored, and skipped next time.
"""

from experiments.lab.launch.study import SMOKE, Preset, Study, TaskGrid
from experiments.lab.results import scoreboard
from experiments.retention.claims import CLAIMS, CONTROLS

# Losses are published far below what counts as solved: training goes on to its last step.
PUBLISHED = {'steps': 20000, 'stop_when_solved': False}

PRESETS = {
  # Every line that `paper` goes through, in the least time.
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
  # The whole story at sizes for two CPU cores: about ten minutes.
  'quick': Preset(
    layers=('attention', 'lstm', 'gru', 'tcn'),
    task_grids=(
      TaskGrid('recall(length=32, num_pairs=4, vocabulary_size=64)', (16, 32, 48)),
      TaskGrid('copy_memory', (30, 60)),  # a TCN of this preset sees 57 tokens
      TaskGrid('adding', (50,), {'steps': 200}),
      TaskGrid('text', (64,), {'steps': 200, 'feedforward': 'gelu'}),
    ),
    settings={
      'steps': 600, 'batch_size': 32, 'validations': 15, 'learning_rates': (3e-3, 1e-2),
    },
  ),
  # Published sizes, for a GPU or a TPU: Zoology's Figure 2, Bai's and Arjovsky's settings.
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
  """The study's tables and panels."""
  columns, layers = scoreboard.columns_of(records), scoreboard.layers_of(records)
  tables = [
    scoreboard.score_table('Retention: score against distance', columns, layers),
    scoreboard.budget_table('Retention: budgets', columns, layers),
    *scoreboard.published_tables(records),
  ]
  return tables, scoreboard.panels(records)


STUDY = Study('retention', __doc__, PRESETS, report, CLAIMS, CONTROLS)
