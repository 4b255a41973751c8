"""Exponents of power laws are found again, and what cannot be known is a dash."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.complexity import exponents
from experiments.lab.results import times
from tests.experiments.complexity.power_laws import LENGTHS, TOKENS, record

LAW = {'train': (1e-6, 0.7), 'memory': (2.0, 1.0), 'generate': (1e-5, 0.5), 'state': (1.0, 0.0)}
SHARED = [measure.shared for measure in exponents.MEASURES]


def cells(table, row=0):
  """A row's cells by their columns."""
  return dict(zip(table.columns, table.rows[row], strict=True))


@settings(max_examples=15, deadline=None)
@given(power=st.floats(-0.5, 2), scale=st.floats(0.1, 10), rounds=st.integers(2, 5))
def test_a_power_law_has_its_exponent_everywhere(power, scale, rounds):
  table = exponents.table([record({'attention': (scale, power)}, rounds=rounds)])
  found = list(cells(table).values())[1:]
  expected = [power + shared for shared in SHARED for _ in range(2)]  # all lengths, the longest two
  assert [one.mean for one in found] == pytest.approx(expected, abs=1e-5)
  assert [one.count for one in found] == [rounds, rounds, 1, 1] * 2
  assert [one.known for one in found] == [True, True, False, False] * 2  # bytes are exact


def test_time_and_memory_are_those_of_a_sequence_and_the_rest_is_as_it_is():
  found = cells(exponents.table([record({'attention': LAW})]))
  assert found['training step'].mean == pytest.approx(1.7)
  assert found['memory'].mean == pytest.approx(2)
  assert found['generated token'].mean == pytest.approx(0.5)
  assert found['state'].mean == 0  # exactly: no rounding is taken for growth


def test_intervals_cover_the_exponent_as_often_as_they_say():
  covered = []
  for seed in range(60):
    rounds = times.samples([record({'lstm': LAW}, seed, rounds=15, noise=0.1)], times.STEP)[:, 0]
    found = exponents.exponent(LENGTHS, rounds)
    covered.append(found.low <= 0.7 <= found.high)
  assert np.mean(covered) >= 0.85


def test_what_is_constant_hides_growth_at_short_lengths_only():
  made = record({'attention': LAW}, rounds=2)
  for point in made['result']['points']:
    point['seconds'] = [TOKENS * (1 + (point['length'] / 256) ** 2)] * 2
  found = cells(exponents.table([made]))
  everywhere, longest = found['generated token'], found['generated token, 256 to 1024']
  assert everywhere.mean < longest.mean < 2
  assert longest.mean == pytest.approx(np.log(17 / 2) / np.log(4))


def test_repetitions_are_pooled():
  made = [record({'lstm': LAW}, seed, rounds=4) for seed in range(3)]
  assert cells(exponents.table(made))['training step'].count == 12


def test_a_point_out_of_memory_leaves_the_others():
  made = record({'attention': LAW, 'lstm': LAW}, missing=[('attention', 1024, 'train')])
  table = exponents.table([made])
  attention, lstm = cells(table), cells(table, 1)
  assert attention['training step'].mean == pytest.approx(1.7)  # of the two that are left
  assert attention['training step, 256 to 1024'] is None
  assert attention['memory, 256 to 1024'].mean == pytest.approx(2)  # which was planned all the same
  assert lstm['training step, 256 to 1024'].mean == pytest.approx(1.7)
  assert 'Out of memory: attention at 1024.' in table.caption and '–' in table.text()


def test_a_repetition_that_got_nowhere_changes_nothing():
  made = record({'lstm': LAW}, noise=0.1)
  empty = record({'lstm': LAW}, seed=1, missing=[('lstm', n, 'train') for n in LENGTHS])
  alone, both = (cells(exponents.table(group)) for group in ([made], [made, empty]))
  assert alone['training step'] == both['training step']
  failed = made | {'run': made['run'] | {'seed': 2}, 'result': {}}
  assert exponents.table([failed]).rows[0][1:] == (None,) * 8


@pytest.mark.parametrize('missing', [LENGTHS, LENGTHS[1:]])
def test_one_length_has_no_exponent(missing):
  made = record({'lstm': LAW}, missing=[('lstm', n, 'train') for n in missing])
  assert cells(exponents.table([made]))['training step'] is None


def test_what_is_published_stands_beside():
  made = record({'attention': LAW, 'lstm': LAW})
  table = exponents.table([made], {'attention': 'O(n² d)'})
  assert [row[1] for row in table.rows] == ['O(n² d)', None]
  assert 'as published' not in exponents.table([made]).columns


def test_the_order_of_lengths_does_not_matter():
  up, down = (exponents.table([record({'lstm': LAW}, lengths=n)]) for n in (LENGTHS, LENGTHS[::-1]))
  assert up.columns == down.columns
  values = [[one.mean for one in table.rows[0][1:]] for table in (up, down)]
  assert values[0] == pytest.approx(values[1])


def test_grids_of_other_devices_have_other_titles():
  made = record({'lstm': LAW})
  other = made | {'run': made['run'] | {'device': 'another'}}
  groups = times.grids([made, other, made | {'run': made['run'] | {'seed': 1}}])
  assert [len(group) for group in groups] == [2, 1]
  assert len({exponents.table(group, alone=False).title for group in groups}) == 2
