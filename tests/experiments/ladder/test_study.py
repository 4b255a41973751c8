"""The ladder: state and time stand beside the scores, rung by rung."""

import math

import pytest

from experiments.lab.results import scores
from experiments.ladder.study import STUDY as ladder
from experiments.ladder.tables import TIMED_LENGTH
from tests.support import records

RUNG, ABOVE = 'elman', 'attention'


@pytest.fixture(scope='module')
def climbed():
  """Two rungs at two questions, and the time of their steps."""
  made = [
    records.trained(layer, family, 16, score, study='ladder')
    for family in ('recall', 'selective_copying')
    for layer, score in ((ABOVE, records.REMEMBERS), (RUNG, records.FORGETS))
  ]
  length = TIMED_LENGTH
  times = records.timed(0, (RUNG, ABOVE), (length, 2 * length), lambda *_: 2.0)
  return [*made, times | {'study': 'ladder'}]


def test_the_ladder_stands_in_its_order_with_state_and_time_beside_the_scores(climbed):
  table, budgets = ladder.report(climbed)[0]
  assert table.columns == (
    'layer', 'state bytes', 'us a token', 'recall 16', 'selective copying 16')
  assert [row[0] for row in table.rows] == [RUNG, ABOVE, '(chance)', '(oracle)']
  below, above, chance, oracle = table.rows
  assert below[1] == above[1] == 1024
  assert math.isclose(below[2].mean, above[2].mean) and math.isclose(below[2].mean, 1.001)
  recalled = next(r for r in climbed if r['run'].get('layer') == ABOVE)
  assert above[3] == scores.metric_interval(recalled) and above[3].mean > below[3].mean
  assert chance[1:3] == oracle[1:3] == (None, None) and oracle[3] == 1
  assert table.references == 2 and table.best['us a token'] == 'lower'
  assert len(budgets.rows) == 4


def test_a_ladder_without_times_or_with_a_failed_cell_is_a_table_with_dashes(climbed):
  failed = climbed[0] | {'status': 'out of memory', 'reason': '80 GB', 'result': {}}
  table = ladder.report([failed, climbed[1]])[0][0]
  assert [row[:3] for row in table.rows[:2]] == [(RUNG, 1024, None), (ABOVE, None, None)]
  assert 'out of memory' in table.rows[1]


def test_every_panel_of_the_ladder_sets_scores_over_bytes(climbed):
  panels = ladder.report(climbed)[1]
  assert [panel.title for panel in panels] == ['recall 16', 'selective copying 16']
  for panel in panels:
    assert set(panel.series) == {RUNG, ABOVE} and panel.series[RUNG][0][0] == 1024
