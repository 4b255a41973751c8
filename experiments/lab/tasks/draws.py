"""Sampling without replacement at a cost that does not depend on the size of the population.

A permutation of n items has a Lehmer code, which is a sequence of digits d[0], d[1], ... with d[i]
in {0, ..., n-1-i}. Digit d[i] is the rank of item i among the items that were not drawn before it.
Codes and permutations are in bijection, so that independent uniform digits decode to a uniform
random arrangement. A sample of k items needs only the first k digits (Lehmer 1960, "Teaching
combinatorial tricks to a computer"). Items with unequal weights p have no such code and are sampled
with Gumbel noise,

  argsort(-(log p + Gumbel)) ~ successive draws with probability proportional to p

(Yellott 1977; Kool et al. 2019, "Stochastic beams and where to find them").
"""

import jax
import jax.numpy as jnp


@jax.jit
def decode_lehmer_codes(codes: jax.Array) -> jax.Array:
  """Decodes Lehmer codes [B, k] into sequences [B, k] of distinct numbers."""
  count = codes.shape[1]

  def decode_next_lehmer_digit(iteration, codes):
    position = count - 2 - iteration
    rank = jax.lax.dynamic_slice_in_dim(codes, position, 1, axis=1)  # [B, 1]
    is_later = (jnp.arange(count) > position)[None, :]
    # The ranks of later items did not count this item yet.
    return codes + (is_later & (codes >= rank))

  return jax.lax.fori_loop(0, count - 1, decode_next_lehmer_digit, codes)


def sample_distinct(key: jax.Array, batch_size: int, count: int, population: int) -> jax.Array:
  """Samples `count` distinct numbers below `population` uniformly, in random order.

  Args:
    key: random key.
    batch_size: number of independent samples B.
    count: size of each sample, at most `population`.
    population: the numbers are 0 to population - 1.

  Returns:
    Numbers [B, count], of which those of a row are distinct.

  """
  bases = (population - jnp.arange(count))[None, :]
  return decode_lehmer_codes(jax.random.randint(key, (batch_size, count), 0, bases))


def sample_weighted_without_replacement(
    key: jax.Array, batch_size: int, count: int, log_weights) -> jax.Array:
  """Samples `count` distinct indices with given weights, without replacement.

  Each draw has probabilities proportional to the weights of the remaining indices.

  Args:
    key: random key.
    batch_size: number of independent samples B.
    count: size of each sample, at most N.
    log_weights: [N] logarithms of the weights, up to a constant.

  Returns:
    Indices [B, count] in the order in which they were drawn.

  """
  noise = jax.random.gumbel(key, (batch_size, *log_weights.shape))
  return jax.lax.top_k(log_weights[None, :] + noise, count)[1]
