"""The receptive field that a Jacobian shows, and how the gradient is spread over it.

With J_k = d y_t / d x_{t-k}, at lag k before an output y_t:

  shown      1 + the largest lag at which any entry of J_k is not zero, exactly
  energy     e_k = mean over sequences of ||J_k||^2 (Frobenius)
  effective  the number of lags with sqrt(e_k) > (1 - 0.9545) max_j sqrt(e_j)
  spread     the standard deviation of the lag, weighted by e_k

Luo, Li, Urtasun and Zemel 2016, "Understanding the effective receptive field in deep convolutional
neural networks", counts where the gradient is over that part of the centre's, which is its peak:
their kernels are symmetric. A causal field has one side only, and its peak is at the
present where there is a residual, near its middle where there is none; so it is compared with the
peak, wherever that is. The bound is where a bell has fallen at 2.5 standard deviations.

In a stack of n linear convolutions of kernel k and dilation d, their weights independent, of equal
variance and mean zero, the expected energy is the n-fold convolution of k equal weights d apart:
its spread d sqrt(n (k^2 - 1) / 12) is a part of the field that falls as 1 / sqrt(n).
"""

import jax
import jax.numpy as jnp

from experiments.lab.measure import jacobian as jacobians

PART = 1 - 0.9545  # of the peak's gradient


def shown(jacobian: jax.Array) -> jax.Array:
  """The tokens that the last output depends on, itself included: [], of [B, T, V, D]."""
  reached = jnp.any(jacobians.support(jacobian), 0)[::-1]  # by lag
  return jnp.max(jnp.where(reached, 1 + jnp.arange(len(reached)), 0))


def energy(jacobian: jax.Array) -> jax.Array:
  """The mean squared gradient of the last output by lag, the present first: [T]."""
  return jnp.mean(jnp.square(jacobians.frobenius(jacobian)), 0)[::-1]


def effective(energy: jax.Array) -> jax.Array:
  """How many lags of an energy [T] count: [], NaN where one is."""
  peak = jnp.max(energy)
  return jnp.where(jnp.isnan(peak), jnp.nan, jnp.sum(energy > PART**2 * peak))


def spread(energy: jax.Array) -> jax.Array:
  """The standard deviation of the lag under an energy [T]: []."""
  mass, lag = energy / jnp.sum(energy), jnp.arange(len(energy))
  return jnp.sqrt(jnp.sum(mass * jnp.square(lag - jnp.sum(mass * lag))))
