"""What a JSON value has to be, as data: shapes that are combined, and the first place that differs.

  Fields({'seed': Whole(), 'test': Number(finite=False)})

is the shape of an object with at least these two fields. A shape's `check` raises a `Misfit`, whose
message names the place and says what stands there, such as `members[1].test: 'x' is not a number`.

No number may be larger than float32 can hold, which is what everything is measured in. In float64
its square is then finite too, and so are variances, ratios and products of two such numbers.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

LARGEST = 3.4028234663852886e38  # of float32
MOST = 2**62  # of whole numbers: an array of them is one of int64
STATUSES = ('finished', 'diverged', 'out of memory', 'timeout', 'failed')
_SHOWN = 40  # letters of a value in a message


class Misfit(ValueError):
  """A value that does not have its shape; the message names the place."""


class Shape(Protocol):
  """What a value has to be."""

  def check(self, value: Any, place: str) -> None:
    """Raise a Misfit that names the place, if the value does not have the shape."""


@dataclasses.dataclass(frozen=True)
class Number:
  """A number within bounds; NaN and infinities only where it need not be `finite`."""

  low: float = -LARGEST
  high: float = LARGEST
  finite: bool = True

  def check(self, value: Any, place: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
      raise _misfit(place, value, 'not a number')
    if isinstance(value, float) and not math.isfinite(value):
      if self.finite:
        raise _misfit(place, value, 'not finite')
    elif not self.low <= value <= self.high:
      raise _misfit(place, value, f'not between {self.low:.3g} and {self.high:.3g}')


@dataclasses.dataclass(frozen=True)
class Whole:
  """A whole number within bounds."""

  low: int = 0
  high: int = MOST

  def check(self, value: Any, place: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
      raise _misfit(place, value, 'not a whole number')
    if not self.low <= value <= self.high:
      raise _misfit(place, value, f'not between {self.low} and {self.high}')


@dataclasses.dataclass(frozen=True)
class Flag:
  """True or false."""

  def check(self, value: Any, place: str) -> None:
    if not isinstance(value, bool):
      raise _misfit(place, value, 'neither true nor false')


@dataclasses.dataclass(frozen=True)
class Text:
  """Text that can be written as UTF-8, and that a pattern matches as a whole, if there is one."""

  pattern: str = ''

  def check(self, value: Any, place: str) -> None:
    if not isinstance(value, str):
      raise _misfit(place, value, 'not text')
    if any('\ud800' <= letter <= '\udfff' for letter in value):
      raise _misfit(place, value, 'text with half of a surrogate pair')
    if self.pattern and not re.fullmatch(self.pattern, value):
      raise _misfit(place, value, f'not of the form {self.pattern}')


@dataclasses.dataclass(frozen=True)
class Choice:
  """One of some texts."""

  values: tuple[str, ...]

  def check(self, value: Any, place: str) -> None:
    if not isinstance(value, str) or value not in self.values:
      raise _misfit(place, value, f'none of {", ".join(self.values)}')


@dataclasses.dataclass(frozen=True)
class Maybe:
  """A value of a shape, or null."""

  shape: Shape

  def check(self, value: Any, place: str) -> None:
    if value is not None:
      self.shape.check(value, place)


@dataclasses.dataclass(frozen=True)
class List:
  """A list of values of one shape."""

  shape: Shape
  shortest: int = 0
  longest: int = MOST
  distinct: bool = False

  def check(self, value: Any, place: str) -> None:
    if not isinstance(value, list):
      raise _misfit(place, value, 'not a list')
    if not self.shortest <= len(value) <= self.longest:
      raise Misfit(f'{place}: {len(value)} values')
    for i, item in enumerate(value):
      self.shape.check(item, f'{place}[{i}]')
    if self.distinct and len(set(value)) < len(value):
      raise _misfit(place, value, 'not distinct')


@dataclasses.dataclass(frozen=True)
class Table:
  """An object whose values have one shape, under any names."""

  shape: Shape
  fewest: int = 0

  def check(self, value: Any, place: str) -> None:
    if not isinstance(value, dict):
      raise _misfit(place, value, 'not an object')
    if len(value) < self.fewest:
      raise Misfit(f'{place}: {len(value)} values')
    for name, item in value.items():
      Text().check(name, place)
      self.shape.check(item, f'{place}.{name}')


@dataclasses.dataclass(frozen=True)
class Anything:
  """A JSON value that can be shown: its numbers are bounded, its text can be written."""

  def check(self, value: Any, place: str) -> None:
    if isinstance(value, str):
      Text().check(value, place)
    elif isinstance(value, list):
      List(self).check(value, place)
    elif isinstance(value, dict):
      Table(self).check(value, place)
    elif isinstance(value, int) and not -MOST <= value <= MOST:
      raise _misfit(place, value, 'too large')


@dataclasses.dataclass(frozen=True)
class Fields:
  """An object with named fields: those that it must have, and the shapes of others it may have.

  Fields that are not named may hold anything.
  """

  required: Mapping[str, Shape]
  optional: Mapping[str, Shape] = dataclasses.field(default_factory=dict)

  def check(self, value: Any, place: str) -> None:
    if not isinstance(value, dict):
      raise _misfit(place, value, 'not an object')
    for name in self.required:
      if name not in value:
        raise Misfit(f'{place}.{name}: missing')
    shapes = {**self.optional, **self.required}
    for name, item in value.items():
      Text().check(name, place)
      shapes.get(name, Anything()).check(item, f'{place}.{name}')

  def requiring(self, **shapes: Shape) -> 'Fields':
    """The same object, which must have these fields besides."""
    return dataclasses.replace(self, required={**self.required, **shapes})


@dataclasses.dataclass(frozen=True)
class Law:
  """What holds between the parts of a run and its result, in words and as a test of both."""

  words: str
  holds: Callable[[dict, dict], bool]


def _misfit(place: str, value: Any, fault: str) -> Misfit:
  shown = repr(value) if not isinstance(value, int) or -MOST <= value <= MOST else 'a whole number'
  shown = shown if len(shown) <= _SHOWN else f'{shown[:_SHOWN]}...'
  return Misfit(f'{place}: {shown} is {fault}')


@dataclasses.dataclass(frozen=True)
class Kind:
  """What the records of one kind of cell must be."""

  mark: str  # a setting by which its runs are known
  run: Fields
  result: Fields
  laws: tuple[Law, ...] = ()
  cells: tuple[str, ...] = ()  # the modules that make its cells

  def check(self, record: dict) -> None:
    """Raise a Misfit for a record of this kind that lacks what tables and claims read."""
    run, result = record['run'], record['result']
    self.run.check(run, 'run')
    if result or record['status'] == 'finished':
      self.result.check(result, 'result')
      for law in self.laws:
        if not law.holds(run, result):
          raise Misfit(f'result: it does not hold that {law.words}')
