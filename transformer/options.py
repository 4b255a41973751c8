"""What options and widths a layer can take: whatever does not suit is said in one line."""

from collections.abc import Iterable

from transformer.layer import SequenceLayer


def at_least(layer: SequenceLayer, least: float, *names: str) -> None:
  """Raises a ValueError if one of the layer's options is less."""
  for name in names:
    value = getattr(layer, name)
    if value < least:
      raise ValueError(f'{type(layer).__name__} needs {name} >= {least}, not {value}')


def one_of(layer: SequenceLayer, name: str, choices: Iterable[str]) -> None:
  """Raises a ValueError if the layer's option is none of the choices."""
  value, choices = getattr(layer, name), tuple(choices)
  if value not in choices:
    kind = type(layer).__name__
    raise ValueError(f'{kind} has no {name} {value!r}; there are {", ".join(choices)}')


def suits(layer: SequenceLayer, width: int) -> None:
  """Raises a ValueError if the layer cannot take the width."""
  if width % layer.width_multiple:
    heads = f' with {layer.num_heads} heads' if hasattr(layer, 'num_heads') else ''
    raise ValueError(
      f'a width of {width} does not suit {type(layer).__name__}{heads}: '
      f'it takes multiples of {layer.width_multiple}'
    )
