"""Statistics of receptive fields and of squared gradient norms by distance, from a Jacobian.

With J_k = d y_t / d x_{t-k}, where k is the distance in tokens between output y_t and input:

  measured   1 + the largest distance at which any entry of J_k is not zero, exactly
  energy     squared norm e_k = mean over sequences of ||J_k||^2 (Frobenius)
  effective  the number of distances with sqrt(e_k) > (1 - 0.9545) max_j sqrt(e_j)
  spread     the standard deviation of the distance, weighted by e_k

Luo, Li, Urtasun and Zemel 2016, "Understanding the effective receptive field in deep convolutional
neural networks", counts the positions at which the gradient exceeds this fraction of the gradient
at the centre. Their kernels are symmetric, so that the centre is the peak. A causal field has one
side only. Its peak is at distance 0 with a residual connection, and near the middle of the field
without. The gradient is therefore compared with its peak at any distance. A Gaussian falls to the
same fraction of its peak at 2.5 standard deviations.

In a stack of n linear convolutions of kernel size k and dilation d, whose weights are independent
with equal variance and mean zero, the expected e_k is the n-fold convolution of k equal weights
that are d apart. Its spread is d sqrt(n (k^2 - 1) / 12), a fraction of the field that decreases as
1 / sqrt(n).
"""

import jax
import jax.numpy as jnp

from experiments.lab.measure import jacobian as jacobians

THRESHOLD = 1 - 0.9545  # as a fraction of the largest gradient


def measured_receptive_field(jacobian: jax.Array) -> jax.Array:
  """Computes the receptive field of the last output, in tokens, from the Jacobian of that output.

  The Jacobian is [B, T, V, D], and the result is a scalar.
  """
  is_nonzero = jnp.any(jacobians.dependence_mask(jacobian), 0)[::-1]  # by distance
  return jnp.max(jnp.where(is_nonzero, 1 + jnp.arange(len(is_nonzero)), 0))


def squared_gradient_norm_by_distance(jacobian: jax.Array) -> jax.Array:
  """Mean squared norms [T] of the gradients of the last output with respect to every input.

  The norms are in the order of the distance, which is the number of tokens from 0 to T - 1 between
  the input and the last output. The Jacobian of the last output is [B, T, V, D], and the mean is
  over the B sequences.
  """
  return jnp.mean(jnp.square(jacobians.frobenius_norm(jacobian)), 0)[::-1]


def effective_receptive_field(squared_gradient_norms: jax.Array) -> jax.Array:
  """The number of input-output distances at which the gradient exceeds 4.55 % of its maximum.

  The squared gradient norms [T] are by distance. The number is a scalar, and is NaN if any of the
  norms is NaN.
  """
  peak = jnp.max(squared_gradient_norms)
  exceeds_threshold = squared_gradient_norms > THRESHOLD**2 * peak
  return jnp.where(jnp.isnan(peak), jnp.nan, jnp.sum(exceeds_threshold))


def receptive_field_spread(squared_gradient_norms: jax.Array) -> jax.Array:
  """The standard deviation of the input-output distance, weighted by squared gradient norm.

  The squared gradient norms [T] are by distance. The result is a scalar in tokens.
  """
  weight = squared_gradient_norms / jnp.sum(squared_gradient_norms)
  distance = jnp.arange(len(squared_gradient_norms))
  return jnp.sqrt(jnp.sum(weight * jnp.square(distance - jnp.sum(weight * distance))))
