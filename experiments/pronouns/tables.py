"""How much weight heads of attention put on the antecedent, as a table and a panel."""

from experiments.lab.results.figures import Panel
from experiments.lab.results.statistics import Interval
from experiments.lab.results.table import Table


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
