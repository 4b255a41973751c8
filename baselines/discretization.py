"""From continuous time to steps: an input that is held turns h' = A h + B x into a recurrence.

  h_t = exp(s A) h_{t-1} + A^-1 (exp(s A) - 1) B x_t     (zero-order hold, steps of length s)

and where A and s start: A as the normal part of HiPPO-LegS, which S4 and its successors share
(Gu et al. 2022), steps log-uniform between two bounds.
"""

import math

import jax
import jax.numpy as jnp


def hippo_normal(size: int) -> tuple[jax.Array, jax.Array]:
  """HiPPO-N = V (-1/2 + i w) V*: w [N / 2] over zero, and its columns of V [N, N / 2].

  It is the normal part of HiPPO-LegS, -1/2 plus a skew matrix (Gu et al. 2022, section 3.2).
  """
  root, index = jnp.sqrt(2 * jnp.arange(size) + 1.0), jnp.arange(size)
  skew = -0.5 * jnp.outer(root, root) * jnp.sign(index[:, None] - index[None])
  frequency, vectors = jnp.linalg.eigh(-1j * skew)  # they rise, from -w to w
  return frequency[size // 2 :], vectors[:, size // 2 :]


def log_uniform(key, shape, dtype, low: float, high: float) -> jax.Array:
  """An initialiser: the logarithm of what is log-uniform between low and high."""
  return jax.random.uniform(key, shape, dtype, math.log(low), math.log(high))


def step_bias(key, shape, dtype=jnp.float32, low: float = 1e-3, high: float = 0.1) -> jax.Array:
  """An initialiser: what softplus makes a step of that is log-uniform between low and high."""
  step = jnp.exp(log_uniform(key, shape, dtype, low, high))
  return step + jnp.log(-jnp.expm1(-step))


def held(log_real, imaginary, log_step):
  """A = -exp(log_real) + i imaginary at steps exp(log_step): exp(s A) and A^-1 (exp(s A) - 1)."""
  step = jnp.exp(log_step)
  z = step * jax.lax.complex(-jnp.exp(log_real), imaginary)
  return jnp.exp(z), step * mean_exponential(z)


def mean_exponential(z: jax.Array) -> jax.Array:
  """(exp(z) - 1) / z for complex z, 1 at 0: the mean of exp over the way from 0 to z.

  Near 0 both the difference and the derivative of the quotient cancel, so that its power series
  1 + z / 2 (1 + z / 3 (1 + ...)) is summed there: to |z| = 1/2, where the tenth term is 1e-9.
  """
  near = jnp.square(z.real) + jnp.square(z.imag) < 0.25
  small, large = jnp.where(near, z, 0), jnp.where(near, 1, z)
  series = jnp.ones_like(z)
  for n in range(9, 1, -1):
    series = 1 + small / n * series
  return jnp.where(near, series, (jnp.exp(large) - 1) / large)
