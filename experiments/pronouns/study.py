"""Can layers resolve a pronoun? Accuracy by distance, and attention to the antecedent.

  python -m experiments.pronouns --preset=quick --runs=runs/quick

In "The dog didn't cross the street because it was too tired", or "too wide", the last word decides
which of two nouns is the antecedent of the pronoun. Generated sentences have growing distances with
other nouns between the first clause and the pronoun. A model predicts the antecedent at the end of
the sentence. The second table contains the attention weight on the antecedent at that position, of
the head with the largest weight, beside the weight of uniform attention. The control is a
convolution at the longest distance. Its receptive field contains the last few words, which
distinguish animals from places, but not the nouns.
"""

from experiments.lab.launch.study import SMOKE, Preset, Study, TaskGrid
from experiments.lab.results import scoreboard
from experiments.pronouns import tables
from experiments.pronouns.claims import CLAIMS, CONTROL, CONTROLS

PRESETS = {
  # This preset runs all code of the `paper` preset at the smallest sizes, as a fast test.
  'smoke': Preset(
    layers=('attention(num_heads=2)', 'lstm'),
    task_grids=(TaskGrid('pronouns', (8,)),),
    settings=SMOKE,
  ),
  # The sizes of this preset suit two CPU cores.
  'quick': Preset(
    layers=('attention', 'lstm', CONTROL),
    task_grids=(TaskGrid('pronouns', (8, 16, 32, 64)),),
    settings={
      'steps': 400, 'batch_size': 32, 'validations': 10, 'learning_rates': (3e-3, 1e-2),
      'feedforward': 'relu',
    },
  ),
  # The sizes of this preset need a GPU or a TPU.
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
  """Tables and panels of accuracy and attention weights, and a table of parameter budgets."""
  columns = scoreboard.group_by_table_column(records)
  layers = scoreboard.layers_in_record_order(records)
  report_tables = [
    scoreboard.table_of_test_metrics('Pronouns: accuracy by distance', columns, layers),
    tables.antecedent_attention_table(columns),
    scoreboard.parameter_budget_table(
      'Pronouns: parameter budgets and training time', columns, layers),
  ]
  panels = [
    *scoreboard.panels_of_test_metrics(records), *tables.antecedent_attention_panels(columns)]
  return report_tables, panels


STUDY = Study('pronouns', __doc__, PRESETS, report, CLAIMS, CONTROLS)
