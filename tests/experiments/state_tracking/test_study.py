"""State tracking: what lies beyond the trained length stands in columns of its own."""

import math

from experiments.lab.results import scores
from experiments.state_tracking.study import STUDY as state_tracking
from tests.support import records


def test_beyond_the_trained_length_stands_in_columns_of_its_own():
  made = [
    records.trained(
      layer, 'parity', 20, records.REMEMBERS, study='state_tracking', extrapolation=far
    )
    for layer, far in (('lstm', records.REMEMBERS), ('attention', records.BLIND))
  ]
  (table, _), (panel,) = state_tracking.report(made)
  assert table.columns == ('layer', 'parity 20', 'parity 20 at 40')
  assert [row[0] for row in table.rows] == ['lstm', 'attention', '(chance)']
  assert table.rows[0][2].mean > 0.99 and abs(table.rows[1][2].mean - 0.5) < 0.01
  assert table.rows[2][1:] == (0.5, 0.5)
  assert table.best == {'parity 20': 'higher', 'parity 20 at 40': 'higher'}
  assert [distance for distance, _ in panel.series['lstm']] == [20, 40]
  diverged = made[0]
  diverged['result']['members'][1] |= {'test': math.nan, 'extrapolation': []}
  assert math.isnan(state_tracking.report(made)[0][0].rows[0][2].mean)
  assert scores.farthest_scores(diverged)[1] == 0
