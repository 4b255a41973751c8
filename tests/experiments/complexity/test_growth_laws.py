"""Laws of growth are fitted exactly if they exist, and only then."""

import math
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from experiments.complexity.growth_laws import (
  Polynomial,
  fit_growth_with_sequence_length,
  fit_polynomial,
  log_log_slope,
  solve_coefficients,
)

LENGTHS = (8, 16, 32, 64)
SIZES = [(n, d) for n in LENGTHS for d in (2, 4, 8)]
coefficients = st.dictionaries(
  st.tuples(st.integers(0, 2), st.integers(0, 2)), st.integers(-50, 50).filter(bool),
  min_size=1, max_size=5,
)


@settings(deadline=None, max_examples=25)
@given(coefficients, st.integers(1, 6))
def test_a_polynomial_is_fitted_with_its_coefficients(terms, divisor):
  expected = Polynomial(('n', 'd'), {e: Fraction(c, divisor) for e, c in terms.items()})
  assume(all(expected.evaluate_polynomial(size).denominator == 1 for size in SIZES))
  fitted = fit_polynomial({size: int(expected.evaluate_polynomial(size)) for size in SIZES}, 'nd')
  assert fitted == expected


@settings(deadline=None, max_examples=25)
@given(coefficients, st.sampled_from(SIZES), st.integers(1, 9))
def test_one_wrong_count_excludes_a_polynomial(terms, size, error):
  correct = Polynomial(('n', 'd'), {e: Fraction(c) for e, c in terms.items()})
  counts = {sizes: int(correct.evaluate_polynomial(sizes)) for sizes in SIZES}
  counts[size] += error
  assert fit_polynomial(counts, 'nd') is None


def test_a_fit_needs_more_counts_than_coefficients():
  assert fit_polynomial({(n,): n * n for n in (1, 2, 4)}, 'n') is None
  assert str(fit_polynomial({(n,): n * n for n in (1, 2, 4, 8)}, 'n')) == 'n²'
  assert solve_coefficients({(1,): 5}, [lambda n: n]) is None


@pytest.mark.parametrize('terms, text, order', [
  ({(2, 1): 4, (1, 2): 8}, '4n²d + 8nd²', 'O(n²d + nd²)'),
  ({(1, 2): 1, (1, 1): -3, (0, 0): 12000}, 'nd² - 3nd + 12,000', 'O(nd²)'),
  ({(1, 0): Fraction(1, 2), (0, 0): Fraction(-1, 3)}, '1/2 n - 1/3', 'O(n)'),
  ({(0, 0): 7}, '7', 'O(1)'),
  ({}, '0', 'O(0)'),
])
def test_a_polynomial_has_a_text_and_an_order_of_growth(terms, text, order):
  polynomial = Polynomial(('n', 'd'), {e: Fraction(c) for e, c in terms.items()})
  assert (str(polynomial), polynomial.growth_order) == (text, order)


LAWS = {
  '17': ('O(1)', lambda n: 17),
  '5 log₂ n + 1': ('O(log n)', lambda n: 5 * math.log2(n) + 1),
  '2n - 4': ('O(n)', lambda n: 2 * n - 4),
  '1/4 n + log₂ n': ('O(n)', lambda n: n / 4 + math.log2(n)),
  '4 ⌈(n - 1)/3⌉': ('O(n/r)', lambda n: 4 * math.ceil((n - 1) / 3)),
}


@pytest.mark.parametrize('text', LAWS)
def test_laws_in_the_length_are_fitted_and_formatted(text):
  order, count = LAWS[text]
  counts = {n: int(count(n)) for n in LENGTHS}
  law = fit_growth_with_sequence_length(counts, layer_receptive_field=4)
  assert (law.text, law.growth_order) == (text, order)


def test_counts_without_a_law_have_an_exponent():
  law = fit_growth_with_sequence_length({n: n**2 for n in LENGTHS})
  assert law.growth_order == '≈ n^2.00' and law.text == '4096 at 64'
  assert fit_growth_with_sequence_length({5: 1, 6: 2, 7: 5}).growth_order.startswith('≈ n^')
  assert fit_growth_with_sequence_length({8: 3, 16: None, 32: None}) == ('∞', '∞')
  # The logarithms of other lengths than powers of two are not integers.
  assert fit_growth_with_sequence_length({n: 2 * n + 1 for n in (5, 6, 7)}).text == '2n + 1'


@given(st.floats(-3, 3), st.floats(0.1, 1e6))
def test_the_exponent_is_the_slope_between_the_last_two_lengths(power, factor):
  counts = {4: 1.0, 10: factor * 10**power, 100: factor * 100**power}
  assert log_log_slope(counts) == pytest.approx(power, abs=1e-9)
