"""Discretization of continuous-time state spaces h' = A h + B x by zero-order hold.

The input is constant within a step of length s, which gives the recurrence

  h_t = exp(s A) h_{t-1} + A^-1 (exp(s A) - 1) B x_t

The initial A is the normal part of HiPPO-LegS, which S4 and its successors share (Gu et al. 2022),
and the initial steps s are log-uniform between two bounds.
"""

import math

import jax
import jax.numpy as jnp


def hippo_normal_part_eigenpairs(size: int) -> tuple[jax.Array, jax.Array]:
  """Returns the positive imaginary parts of the eigenvalues of HiPPO-N and their eigenvectors.

  HiPPO-N = V (-1/2 + i w) V* is the normal part of HiPPO-LegS, -1/2 plus a skew-symmetric matrix
  (Gu et al. 2022, section 3.2). The imaginary parts are w [N / 2], and the eigenvectors are the
  columns of an array [N, N / 2].
  """
  root, index = jnp.sqrt(2 * jnp.arange(size) + 1.0), jnp.arange(size)
  skew = -0.5 * jnp.outer(root, root) * jnp.sign(index[:, None] - index[None])
  frequency, vectors = jnp.linalg.eigh(-1j * skew)  # in ascending order, from -w to w
  return frequency[size // 2 :], vectors[:, size // 2 :]


def log_time_step_initializer(key, shape, dtype, low: float, high: float) -> jax.Array:
  """Initializes the logarithms of step lengths, uniformly between the logarithms of two bounds.

  Args:
    key: the random key.
    shape: the shape of the parameter.
    dtype: the dtype of the parameter.
    low: the shortest step.
    high: the longest step.

  Returns:
    The logarithms of the steps, an array of the shape.

  """
  return jax.random.uniform(key, shape, dtype, math.log(low), math.log(high))


def time_step_bias_initializer(
  key, shape, dtype=jnp.float32, low: float = 1e-3, high: float = 0.1
) -> jax.Array:
  """Initializes biases b such that the step length softplus(b) is log-uniform between two bounds.

  Args:
    key: the random key.
    shape: the shape of the parameter.
    dtype: the dtype of the parameter.
    low: the shortest step.
    high: the longest step.

  Returns:
    The biases, an array of the shape.

  """
  step = jnp.exp(log_time_step_initializer(key, shape, dtype, low, high))
  return step + jnp.log(-jnp.expm1(-step))


def zero_order_hold(log_real, imaginary, log_step):
  """Computes the decay and the input gain of a diagonal state space with zero-order hold.

  Args:
    log_real: the logarithm of the absolute real part of A. The real part is -exp(log_real).
    imaginary: the imaginary part of A.
    log_step: the logarithm of the step length s.

  Returns:
    The decay exp(s A) and the input gain A^-1 (exp(s A) - 1), complex, of the broadcast shape.

  """
  step = jnp.exp(log_step)
  z = step * jax.lax.complex(-jnp.exp(log_real), imaginary)
  return jnp.exp(z), step * expm1_divided_by_z(z)


@jax.custom_jvp
def expm1_divided_by_z(z: jax.Array) -> jax.Array:
  """Computes (exp(z) - 1) / z for complex z, with the value 1 at 0.

  It is the mean of exp along the segment from 0 to z. Near 0 the difference and the derivative of
  the quotient suffer from cancellation. There the power series 1 + z / 2 (1 + z / 3 (1 + ...)) is
  summed instead, for |z| < 1/2, where the tenth term is 1e-9.
  """
  series = lambda small: _horner(small, [1 / n for n in range(2, 10)])  # noqa: E731
  return _near_and_far(z, series, lambda large: (jnp.exp(large) - 1) / large)


@expm1_divided_by_z.defjvp
def _expm1_divided_by_z_jvp(primals, tangents):
  """Computes the derivative (exp(z) - f) / z, and 1/2 (1 + 2/3 z (1 + 3/8 z (1 + ...))) near 0.

  The ratio of the terms n + 1 and n of the series is (n + 1) / (n (n + 2)).
  """
  (z,), (dz,) = primals, tangents
  mean = expm1_divided_by_z(z)
  ratios = [(n + 1) / (n * (n + 2)) for n in range(1, 10)]
  derivative = _near_and_far(
    z, lambda small: _horner(small, ratios) / 2,
    lambda large: (jnp.exp(large) - (jnp.exp(large) - 1) / large) / large)
  return mean, derivative * dz


def _near_and_far(z, near_function, far_function):
  """Applies one function where |z| < 1/2 and the other one elsewhere."""
  near = jnp.square(z.real) + jnp.square(z.imag) < 0.25
  small, large = jnp.where(near, z, 0), jnp.where(near, 1, z)
  return jnp.where(near, near_function(small), far_function(large))


def _horner(z, ratios):
  """Computes 1 + r_1 z (1 + r_2 z (1 + ...)) for the ratios r of successive terms."""
  series = jnp.ones_like(z)
  for ratio in reversed(ratios):
    series = 1 + ratio * z * series
  return series
