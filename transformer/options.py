"""What options and widths a layer can take: whatever does not suit is said in one line."""

import math
from collections.abc import Iterable
from typing import Any

from transformer.layer import SequenceLayer


def at_least(component: Any, least: float, *names: str) -> None:
  """Raises a ValueError if one of the component's options is less, or no finite number."""
  for name in names:
    value = getattr(component, name)
    if not least <= value < math.inf:
      raise ValueError(f'{type(component).__name__} needs {name} >= {least}, not {value}')


def above(component: Any, bound: float, *names: str) -> None:
  """Raises a ValueError if one of the component's options is not greater, or not finite."""
  for name in names:
    value = getattr(component, name)
    if not bound < value < math.inf:
      raise ValueError(f'{type(component).__name__} needs {name} > {bound}, not {value}')


def finite(component: Any, *names: str) -> None:
  """Raises a ValueError if one of the component's options is no finite number."""
  for name in names:
    value = getattr(component, name)
    if not math.isfinite(value):
      raise ValueError(f'{type(component).__name__} needs a finite {name}, not {value}')


def one_of(component: Any, name: str, choices: Iterable[str]) -> None:
  """Raises a ValueError if the component's option is none of the choices."""
  value, choices = getattr(component, name), tuple(choices)
  if value not in choices:
    kind = type(component).__name__
    raise ValueError(f'{kind} has no {name} {value!r}; there are {", ".join(choices)}')


def suits(layer: SequenceLayer, width: int) -> None:
  """Raises a ValueError if the layer cannot take the width."""
  if width % layer.width_multiple:
    heads = f' with {layer.num_heads} heads' if hasattr(layer, 'num_heads') else ''
    raise ValueError(
      f'a width of {width} does not suit {type(layer).__name__}{heads}: '
      f'it takes multiples of {layer.width_multiple}'
    )
