"""Helpers for float64 reference implementations, with random parameters and NumPy functions.

A reference is the recurrence of a paper in NumPy, with a loop over the steps that the layer avoids.
It uses the parameters of the layer by their names.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

BATCH, LENGTH, WIDTH = 2, 6, 3


@functools.cache
def draw_normal_inputs(layer, length=LENGTH, width=WIDTH, scale=0.7):
  """Draws parameters, an input and an initial state of a layer from a normal distribution.

  Args:
    layer: The layer.
    length: The length of the input.
    width: The width of the input.
    scale: The standard deviation.

  Returns:
    The parameters, the input [BATCH, length, width] and the state.
  """
  generator = np.random.default_rng(0)

  def draw_like(array):
    return jnp.array(generator.normal(0, scale, array.shape), jnp.float32)

  x = draw_like(np.empty((BATCH, length, width)))
  parameters = jax.tree.map(draw_like, jax.eval_shape(layer.init, jax.random.key(0), x))
  return parameters, x, jax.tree.map(draw_like, layer.initial_state(BATCH, length, width))


def to_float64(*trees):
  """Converts the leaves of pytrees to NumPy arrays of float64."""
  return jax.tree.map(lambda a: np.asarray(a, np.float64), trees)


def logistic(x):
  return 1 / (1 + np.exp(-x))


def silu(x):
  return x * logistic(x)


def softplus(x):
  return np.logaddexp(x, 0)


def rms_norm(x, scale=1.0, epsilon=1e-6):
  """Scales the last axis to a root mean square of 1, and multiplies it by `scale`.

  Args:
    x: An array [..., D].
    scale: A factor, or an array [D].
    epsilon: The term added to the mean square.

  Returns:
    An array [..., D].
  """
  return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + epsilon) * scale


def causal_depthwise_convolution(x, kernel, bias=0.0):
  """Computes y_t = bias + sum_j kernel[k - 1 - j] x_{t - j}, with zeros before the start.

  Args:
    x: The input [B, T, D].
    kernel: The kernel [k, D].
    bias: A number, or an array [D].

  Returns:
    The output [B, T, D].
  """
  y = np.zeros_like(x) + bias
  for t in range(x.shape[1]):
    for j in range(min(len(kernel), t + 1)):
      y[:, t] += kernel[len(kernel) - 1 - j] * x[:, t - j]
  return y


def assert_close(actual, expected, tolerance=1e-5):
  """Asserts equality up to a tolerance, relative to the largest expected absolute value.

  Args:
    actual: An array.
    expected: The expected array.
    tolerance: The tolerance, relative to the largest absolute value of the expected array or to 1.
  """
  scale = max(1.0, np.abs(expected).max())
  np.testing.assert_allclose(np.asarray(actual) / scale, expected / scale, atol=tolerance, rtol=0)
