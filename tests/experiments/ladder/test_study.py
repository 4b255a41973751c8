"""Tests of the tables of scores, state size and step time of the ladder study."""

import math

import pytest

from experiments.lab.results import scores
from experiments.ladder.study import STUDY as ladder
from experiments.ladder.tables import TIMED_LENGTH
from tests.support import records

FIRST, LAST = 'elman', 'attention'


@pytest.fixture(scope='module')
def ladder_records():
  """Records of two layers trained on two tasks, and of the time of their steps."""
  made = [
    records.training_record(layer, family, 16, score, study='ladder')
    for family in ('recall', 'selective_copying')
    for layer, score in ((LAST, records.PERFECT_SCORES), (FIRST, records.POOR_SCORES))
  ]
  length = TIMED_LENGTH
  times = records.timing_record(0, (FIRST, LAST), (length, 2 * length), lambda *_: 2.0)
  return [*made, times | {'study': 'ladder'}]


def test_first_table_has_state_size_step_time_and_scores_of_layers_in_order(ladder_records):
  table, budgets = ladder.report(ladder_records)[0]
  assert table.columns == (
    'layer', 'state bytes', 'step time, us per token', 'recall 16', 'selective copying 16')
  assert [row[0] for row in table.rows] == [FIRST, LAST, '(chance)', '(oracle)']
  first, last, chance, oracle = table.rows
  assert first[1] == last[1] == 1024
  assert math.isclose(first[2].estimate, last[2].estimate)
  assert math.isclose(first[2].estimate, 1.001)
  last_record = next(r for r in ladder_records if r['run'].get('layer') == LAST)
  assert last[3] == scores.mean_test_metric_with_interval(last_record)
  assert last[3].estimate > first[3].estimate
  assert chance[1:3] == oracle[1:3] == (None, None) and oracle[3] == 1
  assert table.reference_rows == 2 and table.best['step time, us per token'] == 'lower'
  assert len(budgets.rows) == 4


def test_missing_times_and_failed_trainings_are_empty_entries_of_the_table(ladder_records):
  failed = ladder_records[0] | {'status': 'out of memory', 'reason': '80 GB', 'result': {}}
  table = ladder.report([failed, ladder_records[1]])[0][0]
  assert [row[:3] for row in table.rows[:2]] == [(FIRST, 1024, None), (LAST, None, None)]
  assert 'out of memory' in table.rows[1]


def test_panels_plot_scores_against_state_bytes(ladder_records):
  panels = ladder.report(ladder_records)[1]
  assert [panel.title for panel in panels] == ['recall 16', 'selective copying 16']
  for panel in panels:
    assert set(panel.series) == {FIRST, LAST} and panel.series[FIRST][0][0] == 1024
