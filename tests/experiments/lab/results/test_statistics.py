"""Laws of the statistics, and of how a number is written."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.lab.results import notation, statistics
from experiments.lab.results.statistics import Interval

values = st.floats(-1e6, 1e6).map(lambda value: round(value, 6))
samples = st.lists(values, min_size=2, max_size=8)
few = settings(max_examples=15, deadline=None)
BOTH = [statistics.mean_interval, statistics.median_interval]


def near(left, right, scale=1.0):
  return np.allclose(left, right, rtol=1e-6, atol=1e-6 * max(1.0, scale))


# Statistics


@few
@given(sample=samples)
@pytest.mark.parametrize('interval', [*BOTH, statistics.median_spread])
def test_bounds_hold_the_estimate(interval, sample):
  found = interval(sample)
  assert found.low <= found.mean <= found.high and found.count == len(sample) and found.known


@few
@given(sample=samples, offset=values, factor=st.floats(-100, 100))
@pytest.mark.parametrize('interval', [*BOTH, statistics.median_spread])
def test_intervals_move_and_stretch_with_their_values(interval, sample, offset, factor):
  found, size = interval(sample), max(map(abs, [*sample, offset])) * max(1, abs(factor))
  moved = interval([factor * value + offset for value in sample])
  bounds = sorted(factor * bound + offset for bound in found[1:3])
  assert near(moved[:3], [factor * found.mean + offset, *bounds], size)


@given(sample=st.lists(values, min_size=2, max_size=8), order=st.randoms())
def test_mean_interval_knows_no_order(sample, order):
  mixed = list(sample)
  order.shuffle(mixed)
  size = max(map(abs, sample))
  assert near(statistics.mean_interval(mixed), statistics.mean_interval(sample), size)


@pytest.mark.parametrize(('count', 'quantile'), [(2, 12.706205), (5, 2.776445), (31, 2.042272)])
def test_mean_interval_has_students_width(count, quantile):
  sample = np.arange(count, dtype=float)
  found = statistics.mean_interval(sample)
  expected = quantile * np.std(sample, ddof=1) / math.sqrt(count)
  assert found.high - found.mean == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
  ('interval', 'least'), [(statistics.mean_interval, 0.93), (statistics.median_interval, 0.9)]
)
def test_intervals_cover_the_truth_as_often_as_they_say(interval, least):
  draws = np.random.default_rng(0).normal(3.0, 2.0, (200, 12))
  found = [interval(sample) for sample in draws]
  covered = np.mean([one.low <= 3.0 <= one.high for one in found])
  assert least <= covered <= 0.99


def test_spread_is_the_middle_half():
  assert statistics.median_spread([4.0, 0.0, 3.0, 1.0, 2.0]) == Interval(2.0, 1.0, 3.0, 5)


@pytest.mark.parametrize('interval', [*BOTH, statistics.median_spread])
def test_equal_values_have_no_width(interval):
  assert interval([0.1] * 5)[:3] == pytest.approx((0.1, 0.1, 0.1), abs=1e-16)


@pytest.mark.parametrize('interval', [*BOTH, statistics.median_spread])
@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_a_value_that_is_no_number_is_never_left_out(interval, bad):
  assert all(map(math.isnan, interval([0.5, bad, 0.7])[:3]))


@pytest.mark.parametrize('interval', [*BOTH, statistics.median_spread])
def test_one_value_has_no_interval_and_none_has_no_estimate(interval):
  assert interval([0.25]).mean == 0.25 and not interval([0.25]).known
  assert math.isnan(interval([]).mean) and interval([]).count == 0


def test_bootstrap_repeats_itself():
  sample = np.random.default_rng(1).normal(size=20)
  assert statistics.median_interval(sample) == statistics.median_interval(sample)


def test_pairing_cancels_what_rounds_share():
  generator = np.random.default_rng(2)
  weather = np.exp(generator.normal(0, 0.5, 15))
  slow = 2.0 * weather * np.exp(generator.normal(0, 0.001, 15))
  paired = statistics.ratio_interval(slow, weather, paired=True)
  loose = statistics.ratio_interval(slow, weather)
  assert paired.low <= 2.0 <= paired.high
  assert paired.high - paired.low < 0.1 * (loose.high - loose.low)


@few
@given(power=st.floats(-1, 3), scale=st.floats(0.01, 100))
def test_growth_exponent_of_a_power_law(power, scale):
  lengths = np.array([64, 128, 256, 512.0])
  rounds = np.array([[0.9], [1.0], [1.2]])  # each round as a whole is faster or slower
  found = statistics.growth_exponent(lengths, scale * rounds * lengths**power)
  assert near(found[:3], [power] * 3) and found.count == 3


def test_growth_exponent_wants_rounds_by_lengths():
  with pytest.raises(ValueError, match='rounds, lengths'):
    statistics.growth_exponent([1, 2, 4], [[1.0, 2.0]])


# Notation


@pytest.mark.parametrize(
  ('value', 'text'),
  [
    (Interval(0.9932, 0.989, 0.9974, 5), '0.993 ± 0.004'),
    (Interval(0.99, 0.97, 0.995, 9), '0.990 [0.970, 0.995]'),
    (Interval(5.8e-5, 5.6e-5, 6e-5, 4), '(5.8 ± 0.2)e-5'),
    (Interval(56789, 55555, 58023, 5), '56,800 ± 1,200'),
    (Interval(-0.002, -0.052, 0.048, 5), '0.00 ± 0.05'),
    (Interval(1.0, 1.0, 1.0, 5), '1 ± 0'),
    (Interval.bare(0.5), '0.5'),
    (Interval.bare(math.nan, 0), '–'),
    (Interval.bare(math.nan, 5), 'nan'),
    (None, '–'),
    (65536, '65,536'),
    (1024, '1024'),
    (0.123456, '0.1235'),
    (5.8e-5, '5.8e-5'),
    (-math.inf, '-∞'),
    ('text', 'text'),
    (True, 'yes'),
  ],
)
def test_numbers_are_written_as_their_intervals_allow(value, text):
  assert notation.cell(value) == text


@given(mean=values, half=st.floats(1e-4, 1e3))
def test_a_rounded_interval_is_near_the_exact_one(mean, half):
  text = notation.interval(Interval(mean, mean - half, mean + half, 5)).replace(',', '')
  inner, power = re.fullmatch(r'\(?([^()]*?)\)?(?:e(-?\d+))?', text).groups()
  shown = [float(part) * 10 ** int(power or 0) for part in inner.split(' ± ')]
  assert abs(shown[0] - mean) <= 0.5 * half and abs(shown[1] - half) <= 0.25 * half


@given(value=st.floats(-1e300, 1e300))
def test_a_number_keeps_four_digits(value):
  assert float(notation.number(value).replace(',', '')) == pytest.approx(value, rel=5e-4)
