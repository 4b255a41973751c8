"""Statistics of receptive fields and of gradient energy by lag, computed from a Jacobian.

With J_k = d y_t / d x_{t-k}, at lag k before an output y_t:

  measured   1 + the largest lag at which any entry of J_k is not zero, exactly
  energy     e_k = mean over sequences of ||J_k||^2 (Frobenius)
  effective  the number of lags with sqrt(e_k) > (1 - 0.9545) max_j sqrt(e_j)
  spread     the standard deviation of the lag, weighted by e_k

Luo, Li, Urtasun and Zemel 2016, "Understanding the effective receptive field in deep convolutional
neural networks", counts the positions at which the gradient exceeds this fraction of the gradient
at the centre. Their kernels are symmetric, so that the centre is the peak. A causal field has one
side only. Its peak is at lag 0 with a residual connection, and near the middle of the field
without. The gradient is therefore compared with its peak at any lag. A Gaussian falls to the same
fraction of its peak at 2.5 standard deviations.

In a stack of n linear convolutions of kernel size k and dilation d, whose weights are independent
with equal variance and mean zero, the expected energy is the n-fold convolution of k equal weights
that are d apart. Its spread is d sqrt(n (k^2 - 1) / 12), a fraction of the field that decreases as
1 / sqrt(n).
"""

import jax
import jax.numpy as jnp

from experiments.lab.measure import jacobian as jacobians

THRESHOLD = 1 - 0.9545  # as a fraction of the largest gradient


def measured_receptive_field(jacobian: jax.Array) -> jax.Array:
  """The receptive field of the last output, a scalar in tokens, from its Jacobian [B, T, V, D]."""
  nonzero_by_lag = jnp.any(jacobians.dependence_mask(jacobian), 0)[::-1]
  return jnp.max(jnp.where(nonzero_by_lag, 1 + jnp.arange(len(nonzero_by_lag)), 0))


def gradient_energy_by_lag(jacobian: jax.Array) -> jax.Array:
  """Mean squared gradient of the last output at each lag [T], from its Jacobian [B, T, V, D]."""
  return jnp.mean(jnp.square(jacobians.frobenius_norm(jacobian)), 0)[::-1]


def effective_receptive_field(energy: jax.Array) -> jax.Array:
  """The number of lags at which the gradient, sqrt(energy), exceeds 4.55 % of its maximum.

  The number is a scalar, and is NaN if the energy of a lag is NaN.
  """
  peak = jnp.max(energy)
  return jnp.where(jnp.isnan(peak), jnp.nan, jnp.sum(energy > THRESHOLD**2 * peak))


def lag_standard_deviation(energy: jax.Array) -> jax.Array:
  """The standard deviation of the lag in tokens, weighted by the gradient energy [T] by lag."""
  weight, lag = energy / jnp.sum(energy), jnp.arange(len(energy))
  return jnp.sqrt(jnp.sum(weight * jnp.square(lag - jnp.sum(weight * lag))))
