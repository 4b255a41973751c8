"""What does *it* refer to? Accuracy by distance, and the weight of a head on the antecedent.

  python -m experiments.pronouns --preset=quick --runs=runs/quick

"The dog didn't cross the street because it was too tired", or too wide: the last word decides
which of two nouns the pronoun means. Sentences are generated, with other nouns in between, at
growing distances; a model reads one and names the noun. Beside its accuracy stands where attention
looks when it answers: the weight that its best head puts on the antecedent, where looking at all
tokens alike would put one part in as many as there are. A convolution that sees the last few words
knows an animal from a place, but must guess which; at the longest distance it is the control.
"""

from experiments.lab.launch.study import SMOKE, Preset, Study, TaskGrid
from experiments.lab.results import scoreboard
from experiments.pronouns import tables
from experiments.pronouns.claims import CLAIMS, CONTROL, CONTROLS

PRESETS = {
  # Every line that `paper` goes through, in the least time.
  'smoke': Preset(
    layers=('attention(num_heads=2)', 'lstm'),
    task_grids=(TaskGrid('pronouns', (8,)),),
    settings=SMOKE,
  ),
  # For two CPU cores.
  'quick': Preset(
    layers=('attention', 'lstm', CONTROL),
    task_grids=(TaskGrid('pronouns', (8, 16, 32, 64)),),
    settings={
      'steps': 400, 'batch_size': 32, 'validations': 10, 'learning_rates': (3e-3, 1e-2),
      'feedforward': 'relu',
    },
  ),
  # Sizes for a GPU or a TPU.
  'paper': Preset(
    layers=('attention', 'attention(positions=sinusoidal)', 'lstm', 'gru', 'mamba', CONTROL),
    task_grids=(TaskGrid('pronouns', (16, 32, 64, 128, 256)),),
    settings={
      'width': 256, 'depth': 4, 'feedforward': 'relu', 'expansion': 4.0, 'batch_size': 128,
      'steps': 10000, 'seeds': (0, 1, 2, 3, 4), 'learning_rates': (3e-4, 1e-3, 3e-3),
      'validation_batches': 16, 'test_batches': 64,
    },
  ),
}


def report(records: list[dict]):
  """The study's tables, and its curves: accuracy and weight against distance."""
  columns, layers = scoreboard.columns_of(records), scoreboard.layers_of(records)
  made = [
    scoreboard.score_table('Pronouns: accuracy by distance', columns, layers),
    tables.weight_table(columns),
    scoreboard.budget_table('Pronouns: budgets', columns, layers),
  ]
  return made, [*scoreboard.panels(records), *tables.weight_panels(columns)]


STUDY = Study('pronouns', __doc__, PRESETS, report, CLAIMS, CONTROLS)
