"""Random draws without replacement, at a cost that does not grow with the population.

A permutation of n things has a Lehmer code: digits d[0], d[1], ..., d[i] in {0, ..., n-1-i}, where
d[i] is the rank of thing i among those not yet taken. Codes and permutations are one to one, so
independent uniform digits decode to a uniform arrangement of the first few things, and only as
many random numbers are drawn as things are taken (Lehmer 1960, "Teaching combinatorial tricks to
a computer"). Unequal weights have no such code: they are drawn with Gumbel noise,

  argsort(-(log p + Gumbel)) ~ draws one after the other with probability proportional to p

(Yellott 1977; Kool et al. 2019, "Stochastic beams and where to find them").
"""

import jax
import jax.numpy as jnp


@jax.jit
def arrangement(digits: jax.Array) -> jax.Array:  # [B, n] -> [B, n]
  """The arrangement whose Lehmer code is `digits`, row by row."""
  count = digits.shape[1]

  def insert(step, taken):
    at = count - 2 - step
    rank = jax.lax.dynamic_slice_in_dim(taken, at, 1, axis=1)  # [B, 1]
    later = (jnp.arange(count) > at)[None, :]
    return taken + (later & (taken >= rank))  # what comes later counts without this one: make room

  return jax.lax.fori_loop(0, count - 1, insert, digits)


def distinct(key: jax.Array, batch_size: int, count: int, population: int) -> jax.Array:
  """Rows [B, count] of different numbers below `population`, uniform over all arrangements."""
  bases = (population - jnp.arange(count))[None, :]
  return arrangement(jax.random.randint(key, (batch_size, count), 0, bases))


def distinct_weighted(key: jax.Array, batch_size: int, count: int, log_weights) -> jax.Array:
  """Rows [B, count] of different indices, drawn one after the other with the given weights."""
  noise = jax.random.gumbel(key, (batch_size, *log_weights.shape))
  return jax.lax.top_k(log_weights[None, :] + noise, count)[1]
