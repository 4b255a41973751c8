"""Jacobians of maps between sequences, which measure how much an output depends on each input.

One vector-Jacobian product computes one row of the Jacobian, and an output has one row per channel.
The rows are exact up to rounding for every layer, including layers with handwritten gradients.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

ROWS_AT_ONCE = 8


def jacobian_of_output_at_position(
  function: Callable, x: jax.Array, position: int | jax.Array
) -> jax.Array:
  """The Jacobian of the output at one position with respect to all inputs of a sequence.

  The sequences of a batch are independent, so that one vector-Jacobian product gives a row of the
  Jacobian for each sequence.

  Args:
    function: a map from x to y [B, T, V].
    x: the input [B, S, D].
    position: the position of the output, below T.

  Returns:
    The Jacobian [B, S, V, D].

  """
  y, pull_back = jax.vjp(function, x)

  def jacobian_of_output_channel(channel):
    (gradient,) = pull_back(jnp.zeros_like(y).at[:, position, channel].set(1))
    return gradient  # [B, S, D]

  rows = jax.lax.map(
    jacobian_of_output_channel, jnp.arange(y.shape[2]),
    batch_size=min(ROWS_AT_ONCE, y.shape[2]))
  return jnp.moveaxis(rows, 0, 2)


def frobenius_norm(jacobian: jax.Array) -> jax.Array:
  """The Frobenius norm [B, S] of each block [V, D] of a Jacobian [B, S, V, D]."""
  blocks, scale = normalize_jacobian_blocks_by_largest_entry(jacobian)
  return scale * jnp.sqrt(jnp.sum(jnp.square(blocks), (2, 3)))


def spectral_norm(jacobian: jax.Array) -> jax.Array:
  """The largest singular value [B, S] of each block [V, D] of a Jacobian [B, S, V, D]."""
  blocks, scale = normalize_jacobian_blocks_by_largest_entry(jacobian)
  return scale * jnp.linalg.norm(blocks, 2, (2, 3))


def normalize_jacobian_blocks_by_largest_entry(jacobian: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Divides each block [V, D] by its largest absolute entry, so that squares do not underflow.

  Returns the blocks [B, S, V, D] and the divisors [B, S]. A block of zeros has the divisor 1.
  """
  largest = jnp.max(jnp.abs(jacobian), (2, 3))
  scale = jnp.where(largest > 0, largest, 1)
  return jacobian / scale[..., None, None], scale


def dependence_mask(jacobian: jax.Array) -> jax.Array:
  """A mask [B, S] of the positions at which a Jacobian [B, S, V, D] has any nonzero entry."""
  return jnp.any(jacobian != 0, (2, 3))
