"""Table and figure panel of the attention weights on the antecedent of a pronoun."""

from experiments.lab.results.figures import Panel
from experiments.lab.results.statistics import Interval
from experiments.lab.results.table import Table


def largest_attention_weight_on_antecedent(record: dict):
  """The largest attention weight on the antecedent, with its layer and head.

  Returns (weight, layer, head), or None for a model without attention.
  """
  measurements = record['result'].get('antecedent_attention') or [{'heads': {}}]
  weights = [
    (weight, layer, head)
    for layer, heads in measurements[0]['heads'].items() for head, weight in enumerate(heads)
  ]
  return max(weights, default=None)


def antecedent_attention_table(records_by_task):
  """Table of the largest attention weight on the antecedent, over all heads of each model."""
  rows = []
  for task, group in records_by_task.items():
    for record in group:
      largest = largest_attention_weight_on_antecedent(record)
      if largest is not None:
        weight, layer, head = largest
        tokens = record['result']['antecedent_attention'][0]['tokens']
        rows.append((task, record['run']['layer'], f'{layer}, head {head}', weight, 1 / tokens))
  return Table(
    'Pronouns: largest attention weight on the antecedent',
    ('task', 'model', 'head', 'weight on the antecedent', 'weight of uniform attention'),
    rows,
    'Attention weight from the last position to the antecedent of the pronoun, averaged over the '
    'test split. Of all heads of the first seed at the selected learning rate, the head with the '
    'largest weight is shown.',
  )


def antecedent_attention_panels(records_by_task):
  """Panel of the largest attention weight on the antecedent over all heads, by distance."""
  series = {}
  for group in records_by_task.values():
    for record in group:
      largest = largest_attention_weight_on_antecedent(record)
      if largest is not None:
        point = record['result']['distance'], Interval.without_confidence_bounds(largest[0])
        series.setdefault(record['run']['layer'], []).append(point)
  if not series:
    return []
  title = 'largest attention weight'
  axis = next(
    r['result']['axis'] for group in records_by_task.values() for r in group if r['result'])
  return [Panel(title, axis, 'weight on the antecedent', series, log_x=True, y_range=(0, 1.03))]
