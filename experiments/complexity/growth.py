"""Which law a count follows: found exactly, from a few counts, or not at all.

What is counted from a program is a whole number, and as a function of its sizes mostly a
polynomial, or a sum of 1, log2 n and n. The coefficients solve one linear equation a count, in
fractions; there are always more counts than coefficients, so that a law that is found has been
checked. What follows no such law gets an exponent: the slope between its last two lengths.
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

POWERS = {0: '', 1: '', 2: '²', 3: '³'}


class Polynomial(NamedTuple):
  """Coefficients by exponents, one for each of the symbols."""

  symbols: tuple[str, ...]
  terms: dict[tuple[int, ...], Fraction]

  def __str__(self) -> str:
    ordered = sorted(self.terms, reverse=True)
    return signed([(self.terms[e], self.monomial(e)) for e in ordered]) or '0'

  def monomial(self, exponents: tuple[int, ...]) -> str:
    """Such as n²d."""
    named = zip(self.symbols, exponents, strict=True)
    return ''.join(symbol + POWERS[power] for symbol, power in named if power)

  @property
  def order(self) -> str:
    """Its terms that no other one outgrows, such as O(n²d + nd²)."""
    leading = [
      e for e in self.terms
      if not any(o != e and all(map(int.__ge__, o, e)) for o in self.terms)
    ]
    return f'O({" + ".join(self.monomial(e) or "1" for e in sorted(leading, reverse=True)) or 0})'

  def at(self, *sizes: int) -> Fraction:
    """Its value."""
    return sum((c * math.prod(map(pow, sizes, e)) for e, c in self.terms.items()), Fraction(0))


class Law(NamedTuple):
  """A law in n as a text, and its order."""

  text: str
  order: str

  def __str__(self) -> str:
    return self.text


def polynomial(
  counts: Mapping[tuple[int, ...], int], symbols: Sequence[str], degree: int = 2
) -> Polynomial | None:
  """The polynomial that all counts follow, by their sizes; None: there is none.

  An exponent is below the number of its symbol's sizes, and at most `degree`.
  """
  axes = [len(set(sizes)) for sizes in zip(*counts, strict=True)]
  exponents = list(itertools.product(*(range(min(degree + 1, many)) for many in axes)))
  basis = [lambda *sizes, e=e: math.prod(map(pow, sizes, e)) for e in exponents]
  found = exactly(counts, basis)
  if found is None:
    return None
  return Polynomial(tuple(symbols), {e: c for e, c in zip(exponents, found, strict=True) if c})


def law(counts: Mapping[int, float | None], stride: int = 0) -> Law:
  """What counts by length follow: constants, log2 n and n, as few of them as do; or an exponent.

  Args:
    counts: by length; None is infinite.
    stride: how far one layer sees, if the count may be one of layers, ceil((n - 1) / stride).

  """
  counts = {n: math.inf if count is None else count for n, count in counts.items()}
  layers = f'⌈(n - 1)/{stride}⌉'
  bases = {
    '': lambda n: 1, 'log₂ n': lambda n: n.bit_length() - 1, 'n': lambda n: n,
    layers: lambda n: math.ceil((n - 1) / stride),
  }
  candidates = [('',), *([(layers,)] if stride else []),
                ('', 'log₂ n'), ('', 'n'), ('', 'log₂ n', 'n')]
  if not all(n.bit_count() == 1 for n in counts):
    candidates = [names for names in candidates if 'log₂ n' not in names]
  finite = all(map(math.isfinite, counts.values()))
  for names in candidates if finite else ():
    found = exactly({(n,): int(count) for n, count in counts.items()}, [bases[n] for n in names])
    if found is not None:
      order = {'': '1', 'log₂ n': 'log n', layers: 'n/r'}.get(names[-1], names[-1])
      return Law(signed(list(zip(found, names, strict=True))[::-1]) or '0', f'O({order})')
  power, longest = exponent(counts), max(counts)
  if math.isnan(power):
    return Law('∞', '∞')
  return Law(f'{counts[longest]:g} at {longest}', f'≈ n^{power:.2f}')


def exponent(counts: Mapping[int, float]) -> float:
  """The slope between the last two lengths, both on a logarithmic scale."""
  (n, few), (m, many) = sorted(counts.items())[-2:]
  if not (0 < few < math.inf and 0 < many < math.inf):
    return math.nan
  return math.log(many / few) / math.log(m / n)


def exactly(
  counts: Mapping[tuple[int, ...], int], basis: Sequence[Callable[..., int]]
) -> list[Fraction] | None:
  """Coefficients of functions whose sum is every count; None: no such, or more than one."""
  rows = [[Fraction(f(*at)) for f in basis] + [Fraction(count)] for at, count in counts.items()]
  unknown = len(basis)
  if len(rows) <= unknown:
    return None
  for column in range(unknown):
    pivot = next((i for i in range(column, len(rows)) if rows[i][column]), None)
    if pivot is None:
      return None
    rows[column], rows[pivot] = rows[pivot], rows[column]
    own = rows[column] = [x / rows[column][column] for x in rows[column]]
    for i, row in enumerate(rows):
      if i != column and row[column]:
        rows[i] = [x - row[column] * y for x, y in zip(row, own, strict=True)]
  if any(row[-1] for row in rows[unknown:]):
    return None
  return [row[-1] for row in rows[:unknown]]


def signed(terms: Sequence[tuple[Fraction, str]]) -> str:
  """A sum, such as 4n²d - n + 1/2; terms of 0 are left out."""
  text = ''
  for coefficient, name in terms:
    if coefficient:
      sign = ' - ' if coefficient < 0 else ' + '
      text += (sign if text else sign.strip(' +')) + _factor(abs(coefficient), name) + name
  return text


def _factor(size: Fraction, name: str) -> str:
  if size == 1 and name:
    return ''
  shown = f'{size.numerator:,}' if size.denominator == 1 else f'{size.numerator}/{size.denominator}'
  return shown + ' ' * (name[:1] in ('l', '⌈') or (size.denominator > 1 and bool(name)))
