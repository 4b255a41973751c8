"""What does *it* refer to? Accuracy by distance, and the weight of a head on the antecedent.

  python -m experiments.pronouns --preset=quick --runs=runs/quick

"The dog didn't cross the street because it was too tired", or too wide: the last word decides
which of two nouns the pronoun means. Sentences are generated, with other nouns in between, at
growing distances; a model reads one and names the noun. Beside its accuracy stands where attention
looks when it answers: the weight that its best head puts on the antecedent, where looking at all
tokens alike would put one part in as many as there are. A convolution that sees the last few words
knows an animal from a place, but must guess which; at the longest distance it is the control.
"""

from experiments.launch import flags, questions
from experiments.launch.questions import Preset, Question

STUDY = 'pronouns'
CONTROL = 'convolution'

PRESETS = {
  # Every line that `paper` goes through, in the least time.
  'smoke': Preset(
    layers=('attention(num_heads=2)', 'lstm'),
    questions=(Question('pronouns', (8,)),),
    settings={
      'width': 8, 'depth': 1, 'steps': 4, 'batch_size': 8, 'validations': 2,
      'validation_batches': 1, 'test_batches': 1, 'seeds': (0, 1), 'learning_rates': (1e-3, 1e-2),
    },
  ),
  # For two CPU cores.
  'quick': Preset(
    layers=('attention', 'lstm', CONTROL),
    questions=(Question('pronouns', (8, 16, 32, 64)),),
    settings={
      'steps': 400, 'batch_size': 32, 'validations': 10, 'learning_rates': (3e-3, 1e-2),
      'feedforward': 'relu',
    },
  ),
  # Sizes for a GPU or a TPU.
  'paper': Preset(
    layers=('attention', 'attention(positions=sinusoidal)', 'lstm', 'gru', 'mamba', CONTROL),
    questions=(Question('pronouns', (16, 32, 64, 128, 256)),),
    settings={
      'width': 256, 'depth': 4, 'feedforward': 'relu', 'expansion': 4.0, 'batch_size': 128,
      'steps': 10000, 'seeds': (0, 1, 2, 3, 4), 'learning_rates': (3e-4, 1e-3, 3e-3),
      'validation_batches': 16, 'test_batches': 64,
    },
  ),
}


def define() -> None:
  """The study's flags."""
  questions.define(PRESETS)


def grid() -> list:
  """The runs that the flags ask for."""
  return questions.grid(PRESETS)


def report(records: list[dict]):
  """The study's tables, and its curves: accuracy and weight against distance."""
  from experiments.results import scoreboard

  columns, layers = scoreboard.columns_of(records), scoreboard.layers_of(records)
  tables = [
    scoreboard.score_table('Pronouns: accuracy by distance', columns, layers),
    weight_table(columns),
    scoreboard.budget_table('Pronouns: budgets', columns, layers),
  ]
  return tables, [*scoreboard.panels(records), *weight_panels(columns)]


def best_head(record: dict):
  """The layer and the head with the most weight on the antecedent, and the weight; None: none."""
  found = [
    (weight, layer, head)
    for layer, heads in (record['result'].get('looks') or [{'heads': {}}])[0]['heads'].items()
    for head, weight in enumerate(heads)
  ]
  return max(found, default=None)


def weight_table(columns):
  """The best head of every model that attends, at every distance."""
  from experiments.results.table import Table

  rows = []
  for question, group in columns.items():
    for record in group:
      best = best_head(record)
      if best is not None:
        weight, layer, head = best
        tokens = record['result']['looks'][0]['tokens']
        rows.append((question, record['run']['layer'], f'{layer}, head {head}', weight, 1 / tokens))
  return Table(
    'Pronouns: who looks at the antecedent',
    ('question', 'model', 'head', 'weight', 'looking at all alike'),
    rows,
    'Mean weight on the antecedent at the position that answers, over the test split; the head '
    'that puts most there, of the first seed at the chosen rate.',
  )


def weight_panels(columns):
  """The best head's weight against distance."""
  from experiments.results.figures import Panel
  from experiments.results.statistics import Interval

  series = {}
  for group in columns.values():
    for record in group:
      best = best_head(record)
      if best is not None:
        point = record['result']['distance'], Interval.bare(best[0])
        series.setdefault(record['run']['layer'], []).append(point)
  if not series:
    return []
  title = 'weight of the best head'
  axis = next(r['result']['axis'] for group in columns.values() for r in group if r['result'])
  return [Panel(title, axis, 'weight on the antecedent', series, log_x=True, y_range=(0, 1.03))]


def main() -> None:
  """Trains the grid's missing cells, prints the table, and leaves it with its figure as files."""
  from experiments.results import publish

  publish.study(STUDY, *report(questions.train(STUDY, grid())), flags.FLAGS.runs)


if __name__ == '__main__':
  flags.main(main, define, __doc__)
