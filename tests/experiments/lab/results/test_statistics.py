"""Properties of estimates and intervals, and of number formats."""

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
few_examples = settings(max_examples=15, deadline=None)
INTERVALS = [statistics.mean_with_confidence_interval, statistics.median_with_confidence_interval]


def nearly_equal(actual, expected, scale=1.0):
  return np.allclose(actual, expected, rtol=1e-6, atol=1e-6 * max(1.0, scale))


# Statistics


@few_examples
@given(sample=samples)
@pytest.mark.parametrize('interval', INTERVALS)
def test_bounds_contain_the_estimate(interval, sample):
  result = interval(sample)
  assert result.low <= result.estimate <= result.high
  assert result.count == len(sample) and result.has_bounds


@few_examples
@given(sample=samples, offset=values, factor=st.floats(-100, 100))
@pytest.mark.parametrize('interval', INTERVALS)
def test_intervals_are_equivariant_under_affine_maps(interval, sample, offset, factor):
  original, size = interval(sample), max(map(abs, [*sample, offset])) * max(1, abs(factor))
  mapped = interval([factor * value + offset for value in sample])
  bounds = sorted(factor * bound + offset for bound in original[1:3])
  assert nearly_equal(mapped[:3], [factor * original.estimate + offset, *bounds], size)


@given(sample=st.lists(values, min_size=2, max_size=8), order=st.randoms())
def test_mean_with_interval_ignores_the_order_of_values(sample, order):
  shuffled = list(sample)
  order.shuffle(shuffled)
  size = max(map(abs, sample))
  assert nearly_equal(
    statistics.mean_with_confidence_interval(shuffled),
    statistics.mean_with_confidence_interval(sample), size)


@pytest.mark.parametrize(('count', 'quantile'), [(2, 12.706205), (5, 2.776445), (31, 2.042272)])
def test_mean_with_interval_has_students_width(count, quantile):
  sample = np.arange(count, dtype=float)
  interval = statistics.mean_with_confidence_interval(sample)
  expected = quantile * np.std(sample, ddof=1) / math.sqrt(count)
  assert interval.high - interval.estimate == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
  ('interval', 'min_coverage'),
  [
    (statistics.mean_with_confidence_interval, 0.93),
    (statistics.median_with_confidence_interval, 0.9),
  ],
)
def test_intervals_have_their_nominal_coverage(interval, min_coverage):
  draws = np.random.default_rng(0).normal(3.0, 2.0, (200, 12))
  intervals = [interval(sample) for sample in draws]
  coverage = np.mean([bounds.low <= 3.0 <= bounds.high for bounds in intervals])
  assert min_coverage <= coverage <= 0.99


@pytest.mark.parametrize('interval', INTERVALS)
def test_intervals_of_equal_values_have_zero_width(interval):
  assert interval([0.1] * 5)[:3] == pytest.approx((0.1, 0.1, 0.1), abs=1e-16)


@pytest.mark.parametrize('interval', INTERVALS)
@pytest.mark.parametrize('non_finite', [math.nan, math.inf])
def test_a_non_finite_value_makes_the_interval_nan(interval, non_finite):
  assert all(map(math.isnan, interval([0.5, non_finite, 0.7])[:3]))


@pytest.mark.parametrize('interval', INTERVALS)
def test_a_single_value_has_no_bounds_and_an_empty_sample_no_estimate(interval):
  assert interval([0.25]).estimate == 0.25 and not interval([0.25]).has_bounds
  assert math.isnan(interval([]).estimate) and interval([]).count == 0


def test_the_bootstrap_is_deterministic():
  sample = np.random.default_rng(1).normal(size=20)
  first, second = (statistics.median_with_confidence_interval(sample) for _ in range(2))
  assert first == second


def test_pairing_cancels_noise_that_rounds_share():
  generator = np.random.default_rng(2)
  times = np.exp(generator.normal(0, 0.5, 15))
  doubled = 2.0 * times * np.exp(generator.normal(0, 0.001, 15))
  paired = statistics.median_ratio_with_confidence_interval(doubled, times, paired=True)
  unpaired = statistics.median_ratio_with_confidence_interval(doubled, times)
  assert paired.low <= 2.0 <= paired.high
  assert paired.high - paired.low < 0.1 * (unpaired.high - unpaired.low)


@few_examples
@given(power=st.floats(-1, 3), scale=st.floats(0.01, 100))
def test_growth_exponent_recovers_a_power_law(power, scale):
  lengths = np.array([64, 128, 256, 512.0])
  rounds = np.array([[0.9], [1.0], [1.2]])  # A factor on all times of a round.
  exponent = statistics.growth_exponent(lengths, scale * rounds * lengths**power)
  assert nearly_equal(exponent[:3], [power] * 3) and exponent.count == 3


def test_growth_exponent_rejects_times_of_another_shape():
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
    (Interval.without_confidence_bounds(0.5), '0.5'),
    (Interval.without_confidence_bounds(math.nan, 0), '–'),
    (Interval.without_confidence_bounds(math.nan, 5), 'nan'),
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
def test_numbers_are_rounded_by_their_intervals(value, text):
  assert notation.format_table_cell(value) == text


@given(estimate=values, half=st.floats(1e-4, 1e3))
def test_a_rounded_interval_is_close_to_the_exact_interval(estimate, half):
  interval = Interval(estimate, estimate - half, estimate + half, 5)
  text = notation.format_interval(interval).replace(',', '')
  mantissa, power = re.fullmatch(r'\(?([^()]*?)\)?(?:e(-?\d+))?', text).groups()
  rounded = [float(part) * 10 ** int(power or 0) for part in mantissa.split(' ± ')]
  assert abs(rounded[0] - estimate) <= 0.5 * half and abs(rounded[1] - half) <= 0.25 * half


@given(value=st.floats(-1e300, 1e300))
def test_a_number_has_four_significant_digits(value):
  text = notation.format_number_for_table(value).replace(',', '')
  assert float(text) == pytest.approx(value, rel=5e-4)
