"""Dense layers whose kernel gradient is a matrix product without transposed copies.

  y = x W + b,   dx = dy W^T,   dW = x^T dy         x: [tokens, D], W: [D, F]

For inputs with several axes of tokens, automatic differentiation computes dW as (dy^T x)^T. On a
CPU, XLA then transposes dy, together with all elementwise operations that compute it, which run
over memory in strides. Here all tokens form one axis, and the narrower factor is the transposed one
in the product. For 4096 tokens with u = gelu(x), D = 64 and F = 192, a gradient of
tanh(u W) silu(u W) takes 9.5 ms by automatic differentiation and 4.1 ms in this form on one core.
"""

import math
from typing import Any

import jax
from flax import linen as nn

from transformer import platform


@jax.custom_vjp
def _matrix_product(x, matrix):
  return x @ matrix


def _matrix_product_forward(x, matrix):
  return x @ matrix, (x, matrix)


def _matrix_product_backward(residuals, gradient):
  x, matrix = residuals
  if platform.current_platform() != 'cpu':
    return gradient @ matrix.T, x.T @ gradient
  # Without the barriers, XLA would compute the factors anew inside of transposed copies, and would
  # always transpose the same factor.
  x, gradient = jax.lax.optimization_barrier((x, gradient))
  if matrix.shape[0] <= matrix.shape[1]:
    matrix_gradient = x.T @ gradient
  else:
    matrix_gradient = jax.lax.optimization_barrier(gradient.T @ x).T
  return gradient @ matrix.T, matrix_gradient


_matrix_product.defvjp(_matrix_product_forward, _matrix_product_backward)


def multiply_by_matrix(x: jax.Array, matrix: jax.Array) -> jax.Array:
  """Computes the product of the last axis of x [..., D] with a matrix [D, F]."""
  y = _matrix_product(x.reshape(math.prod(x.shape[:-1]), x.shape[-1]), matrix)
  return y.reshape(*x.shape[:-1], matrix.shape[-1])


def multiply_by_kernel(x, kernel, dimension_numbers, precision=None):
  """Contracts axes of x with the first axes of a kernel, like `jax.lax.dot_general`.

  Only products over the last axes of x have the faster gradient.

  Args:
    x: the input of a dense layer.
    kernel: its kernel.
    dimension_numbers: the contracted axes, as for `jax.lax.dot_general`.
    precision: as for `jax.lax.dot_general`.

  Returns:
    The other axes of x, followed by the other axes of the kernel.

  """
  (axes, _), _ = dimension_numbers
  if tuple(axes) != tuple(range(x.ndim - len(axes), x.ndim)) or precision is not None:
    return jax.lax.dot_general(x, kernel, dimension_numbers, precision=precision)
  contracted = math.prod(kernel.shape[: len(axes)])
  rows = x.reshape(*x.shape[: -len(axes)], contracted)
  y = multiply_by_matrix(rows, kernel.reshape(contracted, -1))
  return y.reshape(x.shape[: -len(axes)] + kernel.shape[len(axes) :])


class Dense(nn.Dense):
  """The layer of Flax with faster gradients of the kernel and the bias."""

  dot_general: Any = multiply_by_kernel

  @nn.compact
  def __call__(self, x):  # [..., D]
    # With a single axis of tokens, the gradient of the bias is a fast sum (see `broadcasting`).
    tokens = x.shape[:-1]
    y = super().__call__(x.reshape(math.prod(tokens), x.shape[-1]))
    return y.reshape(*tokens, self.features)


class DenseGeneral(nn.DenseGeneral):
  """The layer of Flax with faster gradients of the kernel and the bias."""

  dot_general: Any = multiply_by_kernel

  @nn.compact
  def __call__(self, x):
    axes = (self.axis,) if isinstance(self.axis, int) else tuple(self.axis)
    if axes != tuple(range(-len(axes), 0)):
      return super().__call__(x)
    tokens, inputs = x.shape[: -len(axes)], x.shape[-len(axes) :]
    y = super().__call__(x.reshape(math.prod(tokens), *inputs))
    return y.reshape(*tokens, *y.shape[1:])
