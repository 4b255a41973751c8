"""What this machine's matrix products reach: the yardstick of programs made of matrix products.

Square float32 matrices of several sizes are multiplied, in turns with whatever is measured, so that
a slow minute slows both. The size that does the most work a second is the peak; a program's share
of it is what its own products come to, by formula, over its time and over the peak.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp


def products(sizes: Iterable[int]) -> dict[int, Callable[[], Any]]:
  """Size -> a call that multiplies two square matrices of it."""
  return {size: _product(size) for size in sizes}


def work(size: int) -> float:
  """Floating-point operations of one product, a multiplication and an addition apart."""
  return 2.0 * size**3


def _product(size: int) -> Callable[[], Any]:
  left, right = jax.random.normal(jax.random.key(size), (2, size, size))
  program = jax.jit(jnp.matmul).lower(left, right).compile()
  return lambda: program(left, right)
