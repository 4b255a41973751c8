"""What references in float64 share: parameters and inputs away from anything special, NumPy forms.

A reference is a paper's recurrence written in NumPy, one step at a time, with loops where the layer
has none. It reads the layer's own parameters, by their names.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

BATCH, LENGTH, WIDTH = 2, 6, 3


@functools.cache
def drawn(layer, length=LENGTH, width=WIDTH, scale=0.7):
  """Parameters, an input and a state to start from, all drawn from a normal distribution."""
  generator = np.random.default_rng(0)

  def draw(like):
    return jnp.array(generator.normal(0, scale, like.shape), jnp.float32)

  x = draw(np.empty((BATCH, length, width)))
  parameters = jax.tree.map(draw, jax.eval_shape(layer.init, jax.random.key(0), x))
  return parameters, x, jax.tree.map(draw, layer.initial_state(BATCH, length, width))


def in_float64(*trees):
  """The trees with NumPy arrays of float64 as leaves."""
  return jax.tree.map(lambda a: np.asarray(a, np.float64), trees)


def logistic(x):
  """1 / (1 + exp(-x))."""
  return 1 / (1 + np.exp(-x))


def silu(x):
  """The activation x logistic(x)."""
  return x * logistic(x)


def softplus(x):
  """log(1 + exp(x))."""
  return np.logaddexp(x, 0)


def rms_norm(x, scale=1.0, epsilon=1e-6):
  """The last axis at a root mean square of 1, scaled."""
  return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + epsilon) * scale


def causal_depthwise(x, kernel, bias=0.0):
  """y_t = bias + sum_j kernel[k - 1 - j] x_{t - j} over x [B, T, D], zeros before the start."""
  y = np.zeros_like(x) + bias
  for t in range(x.shape[1]):
    for j in range(min(len(kernel), t + 1)):
      y[:, t] += kernel[len(kernel) - 1 - j] * x[:, t - j]
  return y


def close(found, expected, tolerance=1e-5):
  """Within a tolerance of the expected array's own largest value (at least 1)."""
  scale = max(1.0, np.abs(expected).max())
  np.testing.assert_allclose(np.asarray(found) / scale, expected / scale, atol=tolerance, rtol=0)
