"""Assertions for laws, which are properties that every layer or every task must satisfy.

A law is checked by a function of a layer, a task or another subject that calls `expect`,
`expect_close` and `expect_finite`. `verify_laws` runs several checks and raises a single error that
lists every violated law.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np


class LawViolation(AssertionError):
  """Error for one law that a layer or a task violates.

  Attributes:
    law: the name of the law, once `verify_laws` has caught the error.
    subject: the layer or task as text, such as `LSTM(forget_bias=1.0)`.
    sizes: the sizes at which the law was checked, such as `B=2, T=10, D=8`.
    fault: what was observed.
    advice: the part of the subject that is likely to cause the violation.

  """

  def __init__(self, fault: str, advice: str, law: str = '', subject: str = '', sizes: str = ''):
    super().__init__(fault, advice, law, subject, sizes)
    self.fault, self.advice = fault, advice
    self.law, self.subject, self.sizes = law, subject, sizes

  def __str__(self) -> str:
    lines = [self.fault, *[f'Check: {self.advice}'] * bool(self.advice)]
    if self.law:
      lines.insert(0, f'{self.subject} violates the law {self.law!r} at {self.sizes}:')
    return '\n  '.join(lines)


class LawViolations(AssertionError):
  """Error that collects one `LawViolation` for each law that a layer or a task violates."""

  def __init__(self, violations: Iterable[LawViolation]):
    self.violations = tuple(violations)
    super().__init__('\n'.join(['', *map(str, self.violations)]))


def expect(condition: Any, fault: str, advice: str) -> None:
  """Raises a LawViolation with the given fault and advice unless the condition is true.

  Args:
    condition: anything with a truth value.
    fault: a description of the violation.
    advice: the code of the layer or task that is likely to cause the fault.

  Raises:
    LawViolation: the condition is false.

  """
  if not condition:
    raise LawViolation(fault, advice)


def expect_close(
  actual: Any, expected: Any, fault: str, advice: str = '', tolerance: float = 2e-5
) -> None:
  """Raises a LawViolation unless two pytrees of arrays agree within a relative tolerance.

  Args:
    actual: a pytree of arrays.
    expected: a pytree of the same structure and shapes.
    fault: a description of the difference, to which the error appends the differing numbers.
    advice: the code of the layer or task that is likely to cause the fault.
    tolerance: the largest difference allowed, relative to max(1, max |expected leaf|).

  Raises:
    LawViolation: the structures, the shapes or the values differ.

  """
  expect(
    jax.tree.structure(actual) == jax.tree.structure(expected),
    f'{fault} (the structures differ: {jax.tree.structure(actual)} instead of '
    f'{jax.tree.structure(expected)})', advice,
  )
  for (path, a), e in zip(
    jax.tree_util.tree_leaves_with_path(actual), jax.tree.leaves(expected), strict=True
  ):
    name = jax.tree_util.keystr(path) or 'element'
    expect(
      np.shape(a) == np.shape(e),
      f'{fault} ({name} has the shape {np.shape(a)} instead of {np.shape(e)})', advice,
    )
    a, e = np.asarray(a, np.float32), np.asarray(e, np.float32)
    difference = np.abs(a - e) / max(1.0, np.abs(e).max(initial=0))
    equal = (a == e) | (difference <= tolerance) | (np.isnan(a) & np.isnan(e))
    if not equal.all():
      difference = np.where(equal, -1, np.nan_to_num(difference, nan=np.inf))
      worst = np.unravel_index(difference.argmax(), equal.shape)
      raise LawViolation(
        f'{fault} ({name} {list(map(int, worst))} is {a[worst]:.6g} instead of {e[worst]:.6g}, '
        f'tolerance {tolerance:g})', advice,
      )


def expect_finite(tree: Any, fault: str, advice: str) -> None:
  """Raises a LawViolation if an array of a pytree contains NaN or infinity.

  Args:
    tree: a pytree of arrays.
    fault: a description of the computation, to which the error appends the name of the array.
    advice: the code of the layer or task that is likely to cause the fault.

  Raises:
    LawViolation: an array contains NaN or infinity.

  """
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    expect(
      np.isfinite(np.asarray(leaf, np.float32)).all(),
      f'{fault}: {jax.tree_util.keystr(path)} is not finite', advice,
    )


def select_laws(
  laws: Mapping[str, Callable[[Any], None]], names: Iterable[str]
) -> dict[str, Callable[[Any], None]]:
  """Returns the laws with the given names, and raises ValueError for an unknown name."""
  names = tuple(names)
  for name in names:
    if name not in laws:
      raise ValueError(f'unknown law {name!r}; the laws are {", ".join(laws)}')
  return {name: laws[name] for name in names}


def verify_laws(
  laws: Mapping[str, Callable[[Any], None]], subject: Any, name: str, sizes: str
) -> tuple[str, ...]:
  """Checks the laws of a layer or task and raises a single error that lists all violated laws.

  Args:
    laws: name -> function of the subject that raises an error if the law is violated. An error that
      is not a LawViolation is reported with its type and message.
    subject: the argument of every law.
    name: the subject as text, for the error.
    sizes: the sizes at which the laws are checked, for the error.

  Returns:
    The names of the laws, all of which hold.

  Raises:
    LawViolations: at least one law is violated.

  """
  violations = []
  for law, check in laws.items():
    try:
      check(subject)
    except LawViolation as error:
      error.law, error.subject, error.sizes = law, name, sizes
      violations.append(error)
    except Exception as error:
      line = str(error).strip().partition('\n')[0]
      violation = LawViolation(
        f'{type(error).__name__}: {line:.300}', 'the traceback above this error',
        law, name, sizes,
      )
      violation.__cause__ = error
      violations.append(violation)
  if violations:
    raise LawViolations(violations) from violations[0].__cause__
  return tuple(laws)
