"""Functions that format table values, rounded to the precision of their confidence intervals.

- `0.993 ± 0.004` has one digit in the half width (two if it starts with 1) and a matching estimate.
- `0.990 [0.970, 0.995]` has its bounds at unequal distances from the estimate.
- `(5.8 ± 0.2)e-5` has one exponent for a very small or very large number and its half width.
- `0.9932` has no interval and is rounded to four digits.
"""

import math
import re

from experiments.lab.results.statistics import Interval

DASH = '–'
_PLAIN_RANGE = (1e-3, 1e6)  # Absolute values in this range have no exponent.
_RELATIVE_ROUNDING = 1e-12  # A relatively smaller half width is a rounding error.

TableCell = str | int | float | Interval | None


def format_table_cell(value: TableCell) -> str:
  """Formats a value for a table cell, with a dash for a missing value."""
  if value is None:
    return DASH
  if isinstance(value, str):
    return value
  return format_interval(value) if isinstance(value, Interval) else format_number_for_table(value)


def format_number_for_table(value: float) -> str:
  """Formats a number without confidence interval, and rounds a float to four significant digits."""
  if isinstance(value, bool):
    return 'yes' if value else 'no'
  if isinstance(value, int):
    return f'{value:,}' if abs(value) >= 10_000 else str(value)
  if not math.isfinite(value):
    return {math.inf: '∞', -math.inf: '-∞'}.get(value, 'nan')
  if _scientific_notation_exponent(value):
    digits, power = f'{value:.3e}'.split('e')
    return f'{_strip_trailing_zeros(digits)}e{int(power)}'
  decimals = max(0, 3 - _decimal_exponent(value))
  return _strip_trailing_zeros(f'{value + 0.0:,.{decimals}f}')


def format_interval(value: Interval) -> str:
  """Formats an estimate and its confidence interval, rounded to the precision of the half width."""
  if not value.has_bounds:
    return format_number_for_table(float(value.estimate)) if value.count else DASH
  half = (value.high - value.low) / 2
  if not abs(value.estimate) * _RELATIVE_ROUNDING <= half < math.inf or half == 0:
    noise = half <= abs(value.estimate) * _RELATIVE_ROUNDING
    half_text = format_number_for_table(0.0 if noise else half)
    return f'{format_number_for_table(float(value.estimate))} ± {half_text}'
  # The lower limit of -300 prevents underflow of 10**power to 0 in float64.
  power = max(-300, _scientific_notation_exponent(max(abs(value.estimate), half)))
  scale = 10.0**power
  estimate, low, high = (part / scale for part in value[:3])
  decimals = _decimal_places_to_display(half / scale)
  middle, below, above = (_format_fixed_point(part, decimals) for part in (estimate, low, high))
  # Both half widths of a confidence interval are computed before division by a power of ten.
  # Equal half widths of a confidence interval therefore stay equal after rounding.
  sides = (value.estimate - value.low, value.high - value.estimate)
  left, right = (_format_fixed_point(side / scale, decimals) for side in sides)
  text = f'{middle} ± {left}' if left == right else f'{middle} [{below}, {above}]'
  return f'({text})e{power}' if power else text


def _decimal_exponent(value: float) -> int:
  return int(f'{value:e}'.split('e')[1])  # Formatting is exact, unlike a rounded logarithm.


def _scientific_notation_exponent(value: float) -> int:
  """Returns the exponent of a number shown in scientific notation, or 0 in decimal notation."""
  plain = value == 0 or _PLAIN_RANGE[0] <= abs(value) < _PLAIN_RANGE[1]
  return 0 if plain else _decimal_exponent(value)


def _decimal_places_to_display(interval_half_width: float) -> int:
  """Returns the number of decimal places with which a half width of an interval is displayed.

  The half width has one significant digit, or two if the leading digit is 1.
  """
  exponent = _decimal_exponent(interval_half_width)
  leading = interval_half_width / 10.0**exponent
  return -exponent + (1 if leading < 1.95 else 0)


def _format_fixed_point(value: float, decimals: int) -> str:
  rounded = round(value, decimals) + 0.0  # Adding 0.0 turns -0.0 into 0.0.
  return f'{rounded:,.{max(0, decimals)}f}'


def _strip_trailing_zeros(text: str) -> str:
  return re.sub(r'\.?0+$', '', text) if '.' in text else text
