"""Laws of counts are found exactly where there are any, and not where there are none."""

import math
from fractions import Fraction

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from experiments.complexity.growth import Polynomial, exactly, exponent, law, polynomial

LENGTHS = (8, 16, 32, 64)
SIZES = [(n, d) for n in LENGTHS for d in (2, 4, 8)]
coefficients = st.dictionaries(
  st.tuples(st.integers(0, 2), st.integers(0, 2)), st.integers(-50, 50).filter(bool),
  min_size=1, max_size=5,
)


@settings(deadline=None, max_examples=25)
@given(coefficients, st.integers(1, 6))
def test_a_polynomial_is_found_with_its_coefficients(terms, divisor):
  said = Polynomial(('n', 'd'), {e: Fraction(c, divisor) for e, c in terms.items()})
  assume(all(said.at(*size).denominator == 1 for size in SIZES))
  found = polynomial({size: int(said.at(*size)) for size in SIZES}, 'nd')
  assert found == said


@settings(deadline=None, max_examples=25)
@given(coefficients, st.sampled_from(SIZES), st.integers(1, 9))
def test_one_count_that_does_not_fit_is_enough(terms, odd, by):
  said = Polynomial(('n', 'd'), {e: Fraction(c) for e, c in terms.items()})
  counts = {size: int(said.at(*size)) for size in SIZES}
  counts[odd] += by
  assert polynomial(counts, 'nd') is None


def test_as_many_counts_as_coefficients_prove_nothing():
  assert polynomial({(n,): n * n for n in (1, 2, 4)}, 'n') is None
  assert str(polynomial({(n,): n * n for n in (1, 2, 4, 8)}, 'n')) == 'n²'
  assert exactly({(1,): 5}, [lambda n: n]) is None


@pytest.mark.parametrize('terms, text, order', [
  ({(2, 1): 4, (1, 2): 8}, '4n²d + 8nd²', 'O(n²d + nd²)'),
  ({(1, 2): 1, (1, 1): -3, (0, 0): 12000}, 'nd² - 3nd + 12,000', 'O(nd²)'),
  ({(1, 0): Fraction(1, 2), (0, 0): Fraction(-1, 3)}, '1/2 n - 1/3', 'O(n)'),
  ({(0, 0): 7}, '7', 'O(1)'),
  ({}, '0', 'O(0)'),
])
def test_polynomials_are_written_with_what_none_outgrows(terms, text, order):
  found = Polynomial(('n', 'd'), {e: Fraction(c) for e, c in terms.items()})
  assert (str(found), found.order) == (text, order)


LAWS = {
  '17': ('O(1)', lambda n: 17),
  '5 log₂ n + 1': ('O(log n)', lambda n: 5 * math.log2(n) + 1),
  '2n - 4': ('O(n)', lambda n: 2 * n - 4),
  '1/4 n + log₂ n': ('O(n)', lambda n: n / 4 + math.log2(n)),
  '4 ⌈(n - 1)/3⌉': ('O(n/r)', lambda n: 4 * math.ceil((n - 1) / 3)),
}


@pytest.mark.parametrize('text', LAWS)
def test_laws_in_the_length_are_told_by_name(text):
  order, count = LAWS[text]
  found = law({n: int(count(n)) for n in LENGTHS}, stride=3)
  assert (found.text, found.order) == (text, order)


def test_what_follows_no_law_gets_an_exponent():
  found = law({n: n**2 for n in LENGTHS})
  assert found.order == '≈ n^2.00' and found.text == '4096 at 64'
  assert law({5: 1, 6: 2, 7: 5}).order.startswith('≈ n^')
  assert law({8: 3, 16: None, 32: None}) == ('∞', '∞')
  # Lengths that are no powers of two have no whole logarithms.
  assert law({n: 2 * n + 1 for n in (5, 6, 7)}).text == '2n + 1'


@given(st.floats(-3, 3), st.floats(0.1, 1e6))
def test_an_exponent_is_the_slope_between_the_last_two(power, factor):
  counts = {4: 1.0, 10: factor * 10**power, 100: factor * 100**power}
  assert exponent(counts) == pytest.approx(power, abs=1e-9)
