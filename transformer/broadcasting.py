"""Sums and terms that repeat over tokens or channels, in forms that are fast on a CPU.

The gradient of an array that is repeated over an axis is a sum over this axis. For a batch with one
sequence, or with an axis of size 1, the sums that JAX derives take XLA up to 20 times as long on a
CPU. The gradient of a scale [85] for inputs [16384, 1, 85] took 21 ms, and takes 1.1 ms in
`multiply_channels`. A sum over the last axis of [1, 16384, 4, 25] took 1.2 us a token, and takes
0.05 us as a product of vectors. These sums were up to half of the gradient of a layer.
"""

import math

import jax
import jax.numpy as jnp

from transformer import platform


def sum_over_tokens(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Sums arrays of the given shape, which are the last axes of x, over all other axes."""
  return x.reshape(-1, math.prod(shape)).sum(0).reshape(shape)


def sum_of_products(x: jax.Array, y: jax.Array) -> jax.Array:
  """Computes the sum of x y over the last axis, which is kept with size 1."""
  if platform.current_platform() == 'cpu' and x.shape == y.shape:
    return jnp.einsum('...K,...K->...', x, y)[..., None]
  return jnp.sum(x * y, -1, keepdims=True)


def with_axes_of(x: jax.Array, values: jax.Array) -> jax.Array:
  """Adds leading axes of size 1 to the values, so that they have as many axes as x."""
  return values.reshape((1,) * (x.ndim - values.ndim) + values.shape)


@jax.custom_vjp
def multiply_channels(x: jax.Array, scale: jax.Array) -> jax.Array:
  """Multiplies x [..., *S] by a parameter of shape S, the same for every token."""
  return x * with_axes_of(x, scale)


def _multiply_channels_backward(residuals, gradient):
  x, scale = residuals
  scale_gradient = sum_over_tokens(gradient * x, scale.shape).astype(scale.dtype)
  return (gradient * with_axes_of(x, scale)).astype(x.dtype), scale_gradient


multiply_channels.defvjp(
  lambda x, scale: (multiply_channels(x, scale), (x, scale)), _multiply_channels_backward
)


@jax.custom_vjp
def add_to_channels(x: jax.Array, bias: jax.Array) -> jax.Array:
  """Adds a parameter of shape S to x [..., *S], the same for every token."""
  return x + with_axes_of(x, bias)


def _add_to_channels_backward(inputs, gradient):
  x, bias = inputs
  return gradient.astype(x.dtype), sum_over_tokens(gradient, bias.shape).astype(bias.dtype)


add_to_channels.defvjp(
  lambda x, bias: (add_to_channels(x, bias), (x, bias)), _add_to_channels_backward
)


@jax.custom_vjp
def multiply_tokens(x: jax.Array, factor: jax.Array) -> jax.Array:
  """Multiplies x [..., K] by [..., 1], the same factor for all channels."""
  return x * factor


def _multiply_tokens_backward(residuals, gradient):
  x, factor = residuals
  factor_gradient = sum_of_products(gradient, x.astype(gradient.dtype)).astype(factor.dtype)
  return (gradient * factor).astype(x.dtype), factor_gradient


multiply_tokens.defvjp(
  lambda x, factor: (multiply_tokens(x, factor), (x, factor)), _multiply_tokens_backward
)
