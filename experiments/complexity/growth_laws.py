"""Exact growth laws of operation counts, as functions of sizes such as the sequence length.

The number of operations of a program is an integer. As a function of the program's sizes, it is
usually a polynomial, or a sum of multiples of 1, log2 n and n. Each count gives one linear equation
for the coefficients. The equations are solved in rational arithmetic. There are always more counts
than coefficients, so that a law that is fitted is also verified. Counts that follow no such law are
described by an exponent, which is the slope between the last two lengths on logarithmic scales.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

POWERS = {0: '', 1: '', 2: '²', 3: '³'}


class Polynomial(NamedTuple):
  """A polynomial in symbols such as n and d, stored as a map from exponents to coefficients.

  A key of `terms` has one exponent per symbol.
  """

  symbols: tuple[str, ...]
  terms: dict[tuple[int, ...], Fraction]

  def __str__(self) -> str:
    ordered = sorted(self.terms, reverse=True)
    return format_sum([(self.terms[e], self.format_monomial(e)) for e in ordered]) or '0'

  def format_monomial(self, exponents: tuple[int, ...]) -> str:
    """A monomial as text, such as n²d."""
    powers = zip(self.symbols, exponents, strict=True)
    return ''.join(symbol + POWERS[power] for symbol, power in powers if power)

  @property
  def growth_order(self) -> str:
    """The order of growth, such as O(n²d + nd²), which omits all dominated terms."""
    leading = [
      e for e in self.terms
      if not any(other != e and all(map(int.__ge__, other, e)) for other in self.terms)
    ]
    monomials = [self.format_monomial(e) or '1' for e in sorted(leading, reverse=True)]
    return f'O({" + ".join(monomials) or 0})'

  def evaluate_polynomial(self, sizes: Sequence[int]) -> Fraction:
    """The value of the polynomial for given values of its symbols."""
    return sum((c * math.prod(map(pow, sizes, e)) for e, c in self.terms.items()), Fraction(0))


class Law(NamedTuple):
  """A growth law in the sequence length n, such as 2n + 1, and its order, such as O(n)."""

  text: str
  growth_order: str

  def __str__(self) -> str:
    return self.text


def fit_polynomial(
  counts: Mapping[tuple[int, ...], int], variables: Sequence[str], degree: int = 2
) -> Polynomial | None:
  """Fits operation counts exactly with a polynomial in sizes such as length and width.

  Args:
    counts: counts by sizes, one size per variable.
    variables: the symbols of the polynomial's variables, such as 'n' and 'd'.
    degree: the maximal exponent of a variable, which is also below the number of its distinct
      sizes.

  Returns:
    The polynomial, or None if there is none.

  """
  axes = [len(set(sizes)) for sizes in zip(*counts, strict=True)]
  exponents = list(itertools.product(*(range(min(degree + 1, many)) for many in axes)))
  basis = [lambda *sizes, e=e: math.prod(map(pow, sizes, e)) for e in exponents]
  coefficients = solve_coefficients(counts, basis)
  if coefficients is None:
    return None
  terms = {e: c for e, c in zip(exponents, coefficients, strict=True) if c}
  return Polynomial(tuple(variables), terms)


def fit_growth_with_sequence_length(
  counts: Mapping[int, float | None], layer_receptive_field: int | None = None
) -> Law:
  """Fits the simplest growth law that reproduces all counts exactly, or otherwise a power law.

  The candidates are multiples of ceil((n - 1) / (layer_receptive_field - 1)), and sums of a
  constant, log2 n and n.

  Args:
    counts: counts by length, where None means infinity.
    layer_receptive_field: the receptive field of one layer if the counts are path lengths through
      a stack of layers with a bounded receptive field, else None.

  Returns:
    The law. If no candidate equals all counts, its text is the count at the longest length, and its
    growth order is an approximate power of n.

  """
  counts = {n: math.inf if count is None else count for n, count in counts.items()}
  tokens_per_layer = layer_receptive_field - 1 if layer_receptive_field else 0
  layers = f'⌈(n - 1)/{tokens_per_layer}⌉'
  bases = {
    '': lambda n: 1, 'log₂ n': lambda n: n.bit_length() - 1, 'n': lambda n: n,
    layers: lambda n: math.ceil((n - 1) / tokens_per_layer),
  }
  candidates = [('',), *([(layers,)] if tokens_per_layer else []),
                ('', 'log₂ n'), ('', 'n'), ('', 'log₂ n', 'n')]
  if not all(n.bit_count() == 1 for n in counts):
    candidates = [names for names in candidates if 'log₂ n' not in names]
  finite = all(map(math.isfinite, counts.values()))
  for names in candidates if finite else ():
    by_sizes = {(n,): int(count) for n, count in counts.items()}
    coefficients = solve_coefficients(by_sizes, [bases[name] for name in names])
    if coefficients is not None:
      order = {'': '1', 'log₂ n': 'log n', layers: 'n/r'}.get(names[-1], names[-1])
      terms = list(zip(coefficients, names, strict=True))[::-1]
      return Law(format_sum(terms) or '0', f'O({order})')
  slope, longest = log_log_slope(counts), max(counts)
  if math.isnan(slope):
    return Law('∞', '∞')
  return Law(f'{counts[longest]:g} at {longest}', f'≈ n^{slope:.2f}')


def log_log_slope(counts: Mapping[int, float]) -> float:
  """The slope of log(count) over log(length) between the two longest lengths."""
  (short, few), (long, many) = sorted(counts.items())[-2:]
  if not (0 < few < math.inf and 0 < many < math.inf):
    return math.nan
  return math.log(many / few) / math.log(long / short)


def solve_coefficients(
  counts: Mapping[tuple[int, ...], int], basis: Sequence[Callable[..., int]]
) -> list[Fraction] | None:
  """Computes rational coefficients of basis functions whose weighted sum reproduces every count.

  Returns None if there is no exact solution, or if the solution is not unique.
  """
  rows = [[Fraction(f(*sizes)) for f in basis] + [Fraction(count)]
          for sizes, count in counts.items()]
  unknowns = len(basis)
  if len(rows) <= unknowns:
    return None
  for column in range(unknowns):
    pivot = next((i for i in range(column, len(rows)) if rows[i][column]), None)
    if pivot is None:
      return None
    rows[column], rows[pivot] = rows[pivot], rows[column]
    pivot_row = rows[column] = [x / rows[column][column] for x in rows[column]]
    for i, row in enumerate(rows):
      if i != column and row[column]:
        rows[i] = [x - row[column] * y for x, y in zip(row, pivot_row, strict=True)]
  if any(row[-1] for row in rows[unknowns:]):
    return None
  return [row[-1] for row in rows[:unknowns]]


def format_sum(terms: Sequence[tuple[Fraction, str]]) -> str:
  """Formats pairs (coefficient, monomial) as a sum, such as 4n²d - n + 1/2, without zero terms."""
  text = ''
  for coefficient, monomial in terms:
    if coefficient:
      sign = ' - ' if coefficient < 0 else ' + '
      text += sign if text else sign.strip(' +')
      text += _format_term_without_sign(abs(coefficient), monomial)
  return text


def _format_term_without_sign(coefficient: Fraction, monomial: str) -> str:
  """Formats a nonnegative coefficient and its monomial, such as 4n²d.

  A coefficient of 1 is omitted before a monomial. A space separates a fraction from its
  monomial, and any coefficient from a logarithm or ceiling.
  """
  if coefficient == 1 and monomial:
    return monomial
  numerator, denominator = coefficient.as_integer_ratio()
  whole = denominator == 1
  text = f'{numerator:,}' if whole else f'{numerator}/{denominator}'
  space = ' ' * (monomial[:1] in ('l', '⌈') or (not whole and bool(monomial)))
  return f'{text}{space}{monomial}'
