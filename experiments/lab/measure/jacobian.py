"""How much an output depends on each input: the Jacobian of a map of sequences, row by row.

A row is one pull back (a vector-Jacobian product), exact to rounding and through every layer, also
those whose gradients are written by hand; there are as many rows as an output has channels.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

ROWS_AT_ONCE = 8


def at_output(function: Callable, x: jax.Array, time: int | jax.Array) -> jax.Array:
  """All of d y_time / d x_s: [B, S, V, D], for y [B, T, V] = function(x [B, S, D]).

  Sequences do not see each other, so that one pull back serves them all.
  """
  y, pull = jax.vjp(function, x)

  def row(channel):
    (gradient,) = pull(jnp.zeros_like(y).at[:, time, channel].set(1))
    return gradient  # [B, S, D]

  rows = jax.lax.map(row, jnp.arange(y.shape[2]), batch_size=min(ROWS_AT_ONCE, y.shape[2]))
  return jnp.moveaxis(rows, 0, 2)


def frobenius(jacobian: jax.Array) -> jax.Array:
  """The root of the sum of all squares of each block [V, D]: [B, S]."""
  unit, scale = scaled(jacobian)
  return scale * jnp.sqrt(jnp.sum(jnp.square(unit), (2, 3)))


def spectral(jacobian: jax.Array) -> jax.Array:
  """The largest singular value of each block [V, D]: by how much it can stretch, [B, S]."""
  unit, scale = scaled(jacobian)
  return scale * jnp.linalg.norm(unit, 2, (2, 3))


def scaled(jacobian: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The blocks with 1 as their largest entry, and what that was: [B, S, V, D] and [B, S].

  The square of a small number is 0 in float32 long before the number is. A block of zeros stays.
  """
  largest = jnp.max(jnp.abs(jacobian), (2, 3))
  scale = jnp.where(largest > 0, largest, 1)
  return jacobian / scale[..., None, None], scale


def support(jacobian: jax.Array) -> jax.Array:
  """Which inputs an output depends on at all: [B, S], true where an entry is not zero."""
  return jnp.any(jacobian != 0, (2, 3))
