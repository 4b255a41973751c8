"""How a number is written: as many digits as its interval supports, and no more.

- `0.993 ± 0.004`: the half width to one digit (two where it starts with 1), the mean to match;
- `0.990 [0.970, 0.995]`: bounds that do not lie evenly around the estimate;
- `(5.8 ± 0.2)e-5`: very small and very large numbers share one exponent;
- `0.9932`: no interval, four digits.
"""

import math
import re

from experiments.lab.results.statistics import Interval

DASH = '–'
_PLAIN = (1e-3, 1e6)  # sizes written without an exponent
_NARROW = 1e-12  # an interval this much smaller than its estimate is rounding noise

TableCell = str | int | float | Interval | None


def cell(value: TableCell) -> str:
  """Text of a table's cell; a missing one is a dash."""
  if value is None:
    return DASH
  if isinstance(value, str):
    return value
  return interval(value) if isinstance(value, Interval) else number(value)


def number(value: float) -> str:
  """Text of a number without an interval: integers whole, others to four digits."""
  if isinstance(value, bool):
    return 'yes' if value else 'no'
  if isinstance(value, int):
    return f'{value:,}' if abs(value) >= 10_000 else str(value)
  if not math.isfinite(value):
    return {math.inf: '∞', -math.inf: '-∞'}.get(value, 'nan')
  if _power(value):
    digits, power = f'{value:.3e}'.split('e')
    return f'{_trim(digits)}e{int(power)}'
  decimals = max(0, 3 - _exponent(value))
  return _trim(f'{value + 0.0:,.{decimals}f}')


def interval(value: Interval) -> str:
  """Estimate with its bounds, rounded by their distance."""
  if not value.known:
    return number(float(value.mean)) if value.count else DASH
  half = (value.high - value.low) / 2
  if not abs(value.mean) * _NARROW <= half < math.inf or half == 0:
    noise = half <= abs(value.mean) * _NARROW
    return f'{number(float(value.mean))} ± {number(0.0 if noise else half)}'
  power = max(-300, _power(max(abs(value.mean), half)))  # 10^-324 is no longer a number
  scale = 10.0**power
  mean, low, high = (part / scale for part in value[:3])
  decimals = _decimals(half / scale)
  middle, below, above = (_fixed(part, decimals) for part in (mean, low, high))
  # Subtracted before they are scaled: both sides of a symmetric interval are rounded alike.
  sides = (value.mean - value.low, value.high - value.mean)
  left, right = (_fixed(side / scale, decimals) for side in sides)
  text = f'{middle} ± {left}' if left == right else f'{middle} [{below}, {above}]'
  return f'({text})e{power}' if power else text


def _exponent(value: float) -> int:
  return int(f'{value:e}'.split('e')[1])  # exact where a logarithm would round


def _power(value: float) -> int:
  """Power of ten to take out of a number; 0 for sizes that read well as they are."""
  plain = value == 0 or _PLAIN[0] <= abs(value) < _PLAIN[1]
  return 0 if plain else _exponent(value)


def _decimals(half: float) -> int:
  """Decimals that show a half width to one digit, to two where it starts with 1."""
  exponent = _exponent(half)
  leading = half / 10.0**exponent
  return -exponent + (1 if leading < 1.95 else 0)


def _fixed(value: float, decimals: int) -> str:
  rounded = round(value, decimals) + 0.0  # + 0.0 turns -0.0 into 0.0
  return f'{rounded:,.{max(0, decimals)}f}'


def _trim(text: str) -> str:
  """Drop the zeros at the end of a decimal fraction."""
  return re.sub(r'\.?0+$', '', text) if '.' in text else text
