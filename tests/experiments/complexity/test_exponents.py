"""Exponents of power laws are estimated correctly, and unknown ones are missing values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.complexity import exponents
from experiments.lab.results import times
from tests.experiments.complexity.power_laws import LENGTHS, TOKENS, power_law_record

LAW = {'train': (1e-6, 0.7), 'memory': (2.0, 1.0), 'generate': (1e-5, 0.5), 'state': (1.0, 0.0)}
SHARED = [measure.shared for measure in exponents.MEASURES]


def row_cells(table, row=0):
  """The cells of a row by column."""
  return dict(zip(table.columns, table.rows[row], strict=True))


@settings(max_examples=15, deadline=None)
@given(power=st.floats(-0.5, 2), scale=st.floats(0.1, 10), rounds=st.integers(2, 5))
def test_a_power_law_has_the_same_exponent_at_all_lengths(power, scale, rounds):
  table = exponents.exponent_table([power_law_record({'attention': (scale, power)}, rounds=rounds)])
  cells = list(row_cells(table).values())[1:]
  expected = [power + shared for shared in SHARED for _ in range(2)]  # all lengths, the longest two
  assert [cell.estimate for cell in cells] == pytest.approx(expected, abs=1e-5)
  assert [cell.count for cell in cells] == [rounds, rounds, 1, 1] * 2
  assert [cell.has_bounds for cell in cells] == [True, True, False, False] * 2  # bytes are exact


def test_time_and_memory_of_training_are_per_sequence():
  cells = row_cells(exponents.exponent_table([power_law_record({'attention': LAW})]))
  assert cells['training step'].estimate == pytest.approx(1.7)
  assert cells['memory'].estimate == pytest.approx(2)
  assert cells['generated token'].estimate == pytest.approx(0.5)
  assert cells['state'].estimate == 0  # exactly, without rounding errors


def test_intervals_cover_the_exponent_at_their_confidence():
  covered = []
  for seed in range(60):
    record = power_law_record({'lstm': LAW}, seed, rounds=15, noise=0.1)
    rounds = times.measurements_as_array([record], times.STEP)[:, 0]
    exponent = exponents.fit_growth_exponent(LENGTHS, rounds)
    covered.append(exponent.low <= 0.7 <= exponent.high)
  assert np.mean(covered) >= 0.85


def test_a_constant_part_lowers_the_exponent_at_short_lengths_only():
  record = power_law_record({'attention': LAW}, rounds=2)
  for point in record['result']['points']:
    point['seconds'] = [TOKENS * (1 + (point['length'] / 256) ** 2)] * 2
  cells = row_cells(exponents.exponent_table([record]))
  everywhere, longest = cells['generated token'], cells['generated token, 256 to 1024']
  assert everywhere.estimate < longest.estimate < 2
  assert longest.estimate == pytest.approx(np.log(17 / 2) / np.log(4))


def test_repetitions_are_pooled():
  records = [power_law_record({'lstm': LAW}, seed, rounds=4) for seed in range(3)]
  assert row_cells(exponents.exponent_table(records))['training step'].count == 12


def test_a_length_that_is_out_of_memory_leaves_the_others():
  record = power_law_record({'attention': LAW, 'lstm': LAW}, missing=[('attention', 1024, 'train')])
  table = exponents.exponent_table([record])
  attention, lstm = row_cells(table), row_cells(table, 1)
  assert attention['training step'].estimate == pytest.approx(1.7)  # of the other two lengths
  assert attention['training step, 256 to 1024'] is None
  # The compiler plans the memory also where the program does not run.
  assert attention['memory, 256 to 1024'].estimate == pytest.approx(2)
  assert lstm['training step, 256 to 1024'].estimate == pytest.approx(1.7)
  assert 'Out of memory: attention at 1024.' in table.caption and '–' in table.text()


def test_a_failed_repetition_is_ignored():
  record = power_law_record({'lstm': LAW}, noise=0.1)
  empty = power_law_record({'lstm': LAW}, seed=1, missing=[('lstm', n, 'train') for n in LENGTHS])
  single, both = (row_cells(exponents.exponent_table(records))
                  for records in ([record], [record, empty]))
  assert single['training step'] == both['training step']
  failed = record | {'run': record['run'] | {'seed': 2}, 'result': {}}
  assert exponents.exponent_table([failed]).rows[0][1:] == (None,) * 8


@pytest.mark.parametrize('missing', [LENGTHS, LENGTHS[1:]])
def test_one_length_has_no_exponent(missing):
  record = power_law_record({'lstm': LAW}, missing=[('lstm', n, 'train') for n in missing])
  assert row_cells(exponents.exponent_table([record]))['training step'] is None


def test_published_complexity_is_shown():
  record = power_law_record({'attention': LAW, 'lstm': LAW})
  table = exponents.exponent_table([record], {'attention': 'O(n² d)'})
  assert [row[1] for row in table.rows] == ['O(n² d)', None]
  assert 'published complexity' not in exponents.exponent_table([record]).columns


def test_the_order_of_lengths_does_not_matter():
  up, down = (exponents.exponent_table([power_law_record({'lstm': LAW}, lengths=lengths)])
              for lengths in (LENGTHS, LENGTHS[::-1]))
  assert up.columns == down.columns
  values = [[cell.estimate for cell in table.rows[0][1:]] for table in (up, down)]
  assert values[0] == pytest.approx(values[1])


def test_tables_of_different_devices_have_different_titles():
  record = power_law_record({'lstm': LAW})
  other = record | {'run': record['run'] | {'device': 'another'}}
  repetition = record | {'run': record['run'] | {'seed': 1}}
  groups = times.group_records_differing_only_in_seed([record, other, repetition])
  assert [len(group) for group in groups] == [2, 1]
  titles = {
    exponents.exponent_table(group, include_run_settings=True).title for group in groups}
  assert len(titles) == 2
