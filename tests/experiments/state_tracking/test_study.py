"""Tests of the tables and panels of scores beyond the trained length."""

import math

from experiments.lab.results import scores
from experiments.state_tracking.study import STUDY as state_tracking
from tests.support import records


def test_scores_beyond_the_trained_length_have_separate_columns():
  extrapolation_scores = {'lstm': records.PERFECT_SCORES, 'attention': records.CHANCE_SCORES}
  made = [
    records.training_record(
      layer, 'parity', 20, records.PERFECT_SCORES, study='state_tracking', extrapolation=at_40)
    for layer, at_40 in extrapolation_scores.items()
  ]
  (table, _), (panel,) = state_tracking.report(made)
  assert table.columns == ('layer', 'parity 20', 'parity 20 at 40')
  assert [row[0] for row in table.rows] == ['lstm', 'attention', '(chance)']
  assert table.rows[0][2].estimate > 0.99 and abs(table.rows[1][2].estimate - 0.5) < 0.01
  assert table.rows[2][1:] == (0.5, 0.5)
  assert table.best == {'parity 20': 'higher', 'parity 20 at 40': 'higher'}
  assert [distance for distance, _ in panel.series['lstm']] == [20, 40]
  diverged = made[0]
  diverged['result']['members'][1] |= {'test': math.nan, 'extrapolation': []}
  assert math.isnan(state_tracking.report(made)[0][0].rows[0][2].estimate)
  assert scores.scores_at_longest_extrapolation_distance(diverged)[1] == 0
