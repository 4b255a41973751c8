"""Measurement of this machine's peak rate of operations in float32 matrix products.

Square float32 matrices of several sizes are multiplied in the same interleaved rounds as the
benchmarks, so that a temporary slowdown affects both. The size with the most operations per second
defines the peak rate. The share of the peak is the number of operations of a program's matrix
products, divided by its time and by the peak rate.
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp


def compile_matrix_products(sizes: Iterable[int]) -> dict[int, Callable[[], Any]]:
  """Returns, for each size, a compiled function that multiplies two random square matrices."""
  return {size: _compiled_matrix_product(size) for size in sizes}


def matrix_product_flops(size: int) -> float:
  """Counts the floating-point operations of a product of two square matrices."""
  return 2.0 * size**3


def _compiled_matrix_product(size: int) -> Callable[[], Any]:
  left, right = jax.random.normal(jax.random.key(size), (2, size, size))
  program = jax.jit(jnp.matmul).lower(left, right).compile()
  return lambda: program(left, right)
