"""Validation of layer options and model widths, with one-line error messages."""

import math
from collections.abc import Iterable
from typing import Any

from transformer.layer import SequenceLayer


def require_option_values_at_least(component: Any, minimum: float, *names: str) -> None:
  """Raises a ValueError unless the named options of a layer are finite and at least the minimum.

  Args:
    component: the object whose attributes are checked.
    minimum: the smallest valid value.
    *names: the names of the attributes.

  Raises:
    ValueError: an option is less than the minimum, infinite or NaN.

  """
  for name in names:
    value = getattr(component, name)
    if not minimum <= value < math.inf:
      raise ValueError(f'{type(component).__name__} needs {name} >= {minimum}, not {value}')


def require_option_values_greater_than(component: Any, lower_bound: float, *names: str) -> None:
  """Raises a ValueError unless the named options are finite and greater than the lower bound.

  Args:
    component: the object whose attributes are checked.
    lower_bound: the number that every option must exceed.
    *names: the names of the attributes.

  Raises:
    ValueError: an option is not greater than the bound, or infinite or NaN.

  """
  for name in names:
    value = getattr(component, name)
    if not lower_bound < value < math.inf:
      raise ValueError(f'{type(component).__name__} needs {name} > {lower_bound}, not {value}')


def require_finite_option_values(component: Any, *names: str) -> None:
  """Raises a ValueError if any of the named options of a layer is infinite or NaN."""
  for name in names:
    value = getattr(component, name)
    if not math.isfinite(value):
      raise ValueError(f'{type(component).__name__} needs a finite {name}, not {value}')


def require_one_of(component: Any, name: str, choices: Iterable[str]) -> None:
  """Raises a ValueError unless the named option of a layer has one of the allowed values.

  Args:
    component: the object whose attribute is checked.
    name: the name of the attribute.
    choices: the allowed values.

  Raises:
    ValueError: the value is not among the choices.

  """
  value, choices = getattr(component, name), tuple(choices)
  if value not in choices:
    kind = type(component).__name__
    raise ValueError(f'{kind} has no {name} {value!r}; there are {", ".join(choices)}')


def check_width(layer: SequenceLayer, width: int) -> None:
  """Raises a ValueError unless the width is a multiple of `layer.required_width_divisor`."""
  if width % layer.required_width_divisor:
    heads = f' with {layer.num_heads} heads' if hasattr(layer, 'num_heads') else ''
    raise ValueError(
      f'a width of {width} is invalid for {type(layer).__name__}{heads}, which requires '
      f'multiples of {layer.required_width_divisor}'
    )
