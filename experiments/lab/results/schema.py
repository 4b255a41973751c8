"""Schemas that check JSON values and raise errors with the path of the invalid value.

  Fields({'seed': Integer(), 'test': Number(finite=False)})

is the schema of an object with at least these two fields. The method `check` of a schema raises a
`SchemaError`, whose message has the path of the value and the fault, such as `members[1].test: 'x'
is not a number`.

No number may exceed the largest float32, since all measurements are in float32. Its square is then
finite in float64, and so are variances, ratios and products of two such numbers.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

LARGEST_NUMBER = 3.4028234663852886e38  # The largest float32.
LARGEST_INTEGER = 2**62  # An array of such integers has the type int64.
STATUSES = ('finished', 'diverged', 'out of memory', 'timeout', 'failed')
_SHOWN_CHARACTERS = 40  # The characters of a value in an error message.


class SchemaError(ValueError):
  """The error that a schema raises for an invalid JSON value, with the path of the value."""


class Schema(Protocol):
  """The interface of all schemas, with the method that checks a JSON value."""

  def check(self, value: Any, path: str) -> None:
    """Raises a SchemaError that names the path if the value does not satisfy the schema."""


@dataclasses.dataclass(frozen=True)
class Number:
  """Schema of a number from `low` to `high`, with NaN and infinity allowed if `finite` is false."""

  low: float = -LARGEST_NUMBER
  high: float = LARGEST_NUMBER
  finite: bool = True

  def check(self, value: Any, path: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
      raise _schema_error(path, value, 'not a number')
    if isinstance(value, float) and not math.isfinite(value):
      if self.finite:
        raise _schema_error(path, value, 'not finite')
    elif not self.low <= value <= self.high:
      raise _schema_error(path, value, f'not between {self.low:.3g} and {self.high:.3g}')


@dataclasses.dataclass(frozen=True)
class Integer:
  """Schema of an integer from `low` to `high`."""

  low: int = 0
  high: int = LARGEST_INTEGER

  def check(self, value: Any, path: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
      raise _schema_error(path, value, 'not an integer')
    if not self.low <= value <= self.high:
      raise _schema_error(path, value, f'not between {self.low} and {self.high}')


@dataclasses.dataclass(frozen=True)
class Boolean:
  """Schema of the values true and false."""

  def check(self, value: Any, path: str) -> None:
    if not isinstance(value, bool):
      raise _schema_error(path, value, 'neither true nor false')


@dataclasses.dataclass(frozen=True)
class Text:
  """Schema of UTF-8 text that fully matches the regular expression `pattern` (if not empty)."""

  pattern: str = ''

  def check(self, value: Any, path: str) -> None:
    if not isinstance(value, str):
      raise _schema_error(path, value, 'not text')
    if any('\ud800' <= character <= '\udfff' for character in value):
      raise _schema_error(path, value, 'text with an unpaired surrogate')
    if self.pattern and not re.fullmatch(self.pattern, value):
      raise _schema_error(path, value, f'not of the form {self.pattern}')


@dataclasses.dataclass(frozen=True)
class Choice:
  """Schema of a string that must equal one of the given strings."""

  values: tuple[str, ...]

  def check(self, value: Any, path: str) -> None:
    if not isinstance(value, str) or value not in self.values:
      raise _schema_error(path, value, f'not one of {", ".join(self.values)}')


@dataclasses.dataclass(frozen=True)
class Nullable:
  """Schema of a value that is null or satisfies the given schema."""

  schema: Schema

  def check(self, value: Any, path: str) -> None:
    if value is not None:
      self.schema.check(value, path)


@dataclasses.dataclass(frozen=True)
class ListOf:
  """Schema of a list whose values all satisfy the same schema."""

  schema: Schema
  min_length: int = 0
  max_length: int = LARGEST_INTEGER
  distinct: bool = False

  def check(self, value: Any, path: str) -> None:
    if not isinstance(value, list):
      raise _schema_error(path, value, 'not a list')
    if len(value) < self.min_length:
      raise SchemaError(f'{path}: {len(value)} values instead of at least {self.min_length}')
    if len(value) > self.max_length:
      raise SchemaError(f'{path}: {len(value)} values instead of at most {self.max_length}')
    for i, item in enumerate(value):
      self.schema.check(item, f'{path}[{i}]')
    if self.distinct and len(set(value)) < len(value):
      raise _schema_error(path, value, 'not distinct')


@dataclasses.dataclass(frozen=True)
class MapOf:
  """Schema of a JSON object with arbitrary field names, whose values all satisfy a given schema."""

  schema: Schema
  min_size: int = 0

  def check(self, value: Any, path: str) -> None:
    if not isinstance(value, dict):
      raise _schema_error(path, value, 'not an object')
    if len(value) < self.min_size:
      raise SchemaError(f'{path}: {len(value)} values instead of at least {self.min_size}')
    for name, item in value.items():
      Text().check(name, path)
      self.schema.check(item, f'{path}.{name}')


@dataclasses.dataclass(frozen=True)
class Anything:
  """Schema of any JSON value with integers in the range of int64 and texts in valid UTF-8."""

  def check(self, value: Any, path: str) -> None:
    if isinstance(value, str):
      Text().check(value, path)
    elif isinstance(value, list):
      ListOf(self).check(value, path)
    elif isinstance(value, dict):
      MapOf(self).check(value, path)
    elif isinstance(value, int) and not -LARGEST_INTEGER <= value <= LARGEST_INTEGER:
      raise _schema_error(path, value, 'too large')


@dataclasses.dataclass(frozen=True)
class Fields:
  """Schema of a JSON object with required and optional fields, each with a schema.

  All other fields may have any value.
  """

  required: Mapping[str, Schema]
  optional: Mapping[str, Schema] = dataclasses.field(default_factory=dict)

  def check(self, value: Any, path: str) -> None:
    if not isinstance(value, dict):
      raise _schema_error(path, value, 'not an object')
    for name in self.required:
      if name not in value:
        raise SchemaError(f'{path}.{name}: missing')
    schemas = {**self.optional, **self.required}
    for name, item in value.items():
      Text().check(name, path)
      schemas.get(name, Anything()).check(item, f'{path}.{name}')

  def with_additional_required_fields(self, field_schemas: Mapping[str, Schema]) -> 'Fields':
    """Returns a copy of the schema with additional required fields."""
    return dataclasses.replace(self, required={**self.required, **field_schemas})


@dataclasses.dataclass(frozen=True)
class Constraint:
  """A condition on the settings and the result of a run, with a description."""

  description: str
  holds: Callable[[dict, dict], bool]


def _schema_error(path: str, value: Any, fault: str) -> SchemaError:
  # Python raises an error when it formats an integer of thousands of digits.
  is_huge = isinstance(value, int) and not -LARGEST_INTEGER <= value <= LARGEST_INTEGER
  text = 'an integer' if is_huge else repr(value)
  text = text if len(text) <= _SHOWN_CHARACTERS else f'{text[:_SHOWN_CHARACTERS]}...'
  return SchemaError(f'{path}: {text} is {fault}')


@dataclasses.dataclass(frozen=True)
class RecordKind:
  """The schema of the records of one kind of experiment, such as training or timing.

  The runs of the kind are those with the setting `identifying_setting`. `modules` are the names of
  the modules that execute its grid cells.
  """

  identifying_setting: str
  run: Fields
  result: Fields
  constraints: tuple[Constraint, ...] = ()
  modules: tuple[str, ...] = ()

  def check(self, record: dict) -> None:
    """Raises a SchemaError for a record with an invalid field or an unsatisfied constraint."""
    run, result = record['run'], record['result']
    self.run.check(run, 'run')
    if result or record['status'] == 'finished':
      self.result.check(result, 'result')
      for constraint in self.constraints:
        if not constraint.holds(run, result):
          raise SchemaError(f'result: it is not true that {constraint.description}')
