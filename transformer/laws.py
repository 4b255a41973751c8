"""Assertions for laws, which are properties that every layer or every task must have.

A law is checked by a function of a layer, a task or another object that calls `expect`,
`expect_close` and `expect_finite`. `verify_laws` runs several checks and raises a single
error that lists every violated law.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np


class LawViolation(AssertionError):
  """Error raised if a layer or a task lacks a required property, which is called a law.

  Attributes:
    law_name: the name of the law, once `verify_laws` has caught the error.
    tested_object: the layer or task as text, such as `LSTM(forget_bias=1.0)`.
    sizes: the sizes at which the law was checked, such as `B=2, T=10, D=8`.
    error_message: a description of the violation.
    hint: the part of the layer or task that is likely to cause the violation.

  """

  def __init__(
    self, error_message: str, hint: str, law_name: str = '', tested_object: str = '',
    sizes: str = '',
  ):
    super().__init__(error_message, hint, law_name, tested_object, sizes)
    self.error_message, self.hint = error_message, hint
    self.law_name, self.tested_object, self.sizes = law_name, tested_object, sizes

  def __str__(self) -> str:
    lines = [self.error_message, *[f'Check: {self.hint}'] * bool(self.hint)]
    if self.law_name:
      lines.insert(0, f'{self.tested_object} violates the law {self.law_name!r} at {self.sizes}:')
    return '\n  '.join(lines)


class LawViolations(AssertionError):
  """Error that collects one `LawViolation` for each law that a layer or a task violates."""

  def __init__(self, violations: Iterable[LawViolation]):
    self.violations = tuple(violations)
    super().__init__('\n'.join(['', *map(str, self.violations)]))


def expect(condition: Any, error_message: str, hint: str) -> None:
  """Raises a LawViolation with the error message and the hint unless the condition is true.

  Args:
    condition: anything with a truth value.
    error_message: a description of the violation.
    hint: the code of the layer or task that is likely to cause the violation.

  Raises:
    LawViolation: the condition is false.

  """
  if not condition:
    raise LawViolation(error_message, hint)


def expect_close(
  actual: Any, expected: Any, error_message: str, hint: str = '', tolerance: float = 2e-5
) -> None:
  """Raises a LawViolation unless two pytrees of arrays agree within a relative tolerance.

  Args:
    actual: a pytree of arrays.
    expected: a pytree of the same structure and shapes.
    error_message: a description of the difference, to which the differing numbers are appended.
    hint: the code of the layer or task that is likely to cause the violation.
    tolerance: the largest difference allowed, relative to max(1, max |expected leaf|).

  Raises:
    LawViolation: the structures, the shapes or the values differ.

  """
  expect(
    jax.tree.structure(actual) == jax.tree.structure(expected),
    f'{error_message} (the structures differ: {jax.tree.structure(actual)} instead of '
    f'{jax.tree.structure(expected)})', hint,
  )
  for (path, a), e in zip(
    jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True
  ):
    name = jax.tree_util.keystr(path) or 'element'
    expect(
      np.shape(a) == np.shape(e),
      f'{error_message} ({name} has the shape {np.shape(a)} instead of {np.shape(e)})', hint,
    )
    a, e = np.asarray(a, np.float32), np.asarray(e, np.float32)
    difference = np.abs(a - e) / max(1.0, np.abs(e).max(initial=0))
    equal = (a == e) | (difference <= tolerance) | (np.isnan(a) & np.isnan(e))
    if not equal.all():
      difference = np.where(equal, -1, np.nan_to_num(difference, nan=np.inf))
      worst = np.unravel_index(difference.argmax(), equal.shape)
      raise LawViolation(
        f'{error_message} ({name} {list(map(int, worst))} is {a[worst]:.6g} instead of '
        f'{e[worst]:.6g}, tolerance {tolerance:g})', hint,
      )


def expect_finite(tree: Any, error_message: str, hint: str) -> None:
  """Raises a LawViolation if an array of a pytree contains NaN or infinity.

  Args:
    tree: a pytree of arrays.
    error_message: a description of the computation, to which the name of the array is appended.
    hint: the code of the layer or task that is likely to cause the violation.

  Raises:
    LawViolation: an array contains NaN or infinity.

  """
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    expect(
      np.isfinite(np.asarray(leaf, np.float32)).all(),
      f'{error_message}: {jax.tree_util.keystr(path)} is not finite', hint,
    )


def select_laws(
  laws: Mapping[str, Callable[[Any], None]], names: Iterable[str]
) -> dict[str, Callable[[Any], None]]:
  """Returns the checks of required properties (laws) that have the given names.

  An unknown name raises a ValueError.
  """
  names = tuple(names)
  for name in names:
    if name not in laws:
      raise ValueError(f'unknown law {name!r}; the laws are {", ".join(laws)}')
  return {name: laws[name] for name in names}


def verify_laws(
  laws: Mapping[str, Callable[[Any], None]], tested_object: Any, object_name: str, sizes: str
) -> tuple[str, ...]:
  """Checks required properties of a layer or task and raises one error that lists all violations.

  Args:
    laws: name of a law -> function of the tested object that raises an error if the object
      violates the law. An error that is not a LawViolation is reported with its type and message.
    tested_object: the argument of every function.
    object_name: the tested object as text, for the error.
    sizes: the sizes at which the laws are checked, for the error.

  Returns:
    The names of the laws, all of which hold.

  Raises:
    LawViolations: at least one law is violated.

  """
  violations = []
  for law_name, check in laws.items():
    try:
      check(tested_object)
    except LawViolation as error:
      error.law_name, error.tested_object, error.sizes = law_name, object_name, sizes
      violations.append(error)
    except Exception as error:
      line = str(error).strip().partition('\n')[0]
      violation = LawViolation(
        f'{type(error).__name__}: {line:.300}', 'the traceback above this error',
        law_name, object_name, sizes,
      )
      violation.__cause__ = error
      violations.append(violation)
  if violations:
    raise LawViolations(violations) from violations[0].__cause__
  return tuple(laws)
