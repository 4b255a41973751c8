"""Tests of zero-order hold against float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from baselines.discretization import expm1_divided_by_z, zero_order_hold


def exact_expm1_over_argument(z):
  """(exp(z) - 1) / z and its derivative in float64, from power series for small z."""
  if abs(z) > 2:
    mean = (np.exp(z) - 1) / z
    return mean, (np.exp(z) - mean) / z
  value = sum(z**n / math.factorial(n + 1) for n in range(40))
  return value, sum(n * z ** (n - 1) / math.factorial(n + 1) for n in range(1, 40))


@settings(deadline=None, max_examples=50)
@given(size=st.floats(-10, 1.5), angle=st.floats(0.5 * np.pi, 1.5 * np.pi))
@example(size=-10, angle=np.pi)
@example(size=np.log10(0.5), angle=0.7 * np.pi)
@example(size=np.log10(2 * np.pi), angle=0.5 * np.pi)
def test_expm1_over_argument_and_its_derivative_are_accurate(size, angle):
  z = np.complex64(10.0**size * np.exp(1j * angle))
  value, expected_derivative = exact_expm1_over_argument(np.complex128(z))
  derivative = jax.grad(expm1_divided_by_z, holomorphic=True)(jnp.array(z))
  # Both are of the order of 1 / |z| for large z, except near their zeros, such as 2 pi i.
  scale = min(1, 1 / abs(z))
  assert abs(expm1_divided_by_z(jnp.array(z)) - value) <= 1e-6 * scale
  assert abs(derivative - expected_derivative) <= 5e-6 * scale


@pytest.mark.parametrize('imaginary', [0.0, 3.0, 100.0])
@pytest.mark.parametrize('step', [1e-7, 1e-4, 0.1, 10.0])
def test_zero_order_hold_equals_the_integral_over_a_step(step, imaginary):
  parameters = [np.float32(p) for p in (np.log(0.5), imaginary, np.log(step))]
  log_real, imaginary, log_step = (np.float64(p) for p in parameters)
  a, step = -np.exp(log_real) + 1j * imaginary, np.exp(log_step)
  decay, gain = zero_order_hold(*map(jnp.array, parameters))
  # The rounding error of a phase of 1000 is 1000 times that of 1.
  tolerance = 1e-6 * max(1, abs(step * a))
  np.testing.assert_allclose(decay, np.exp(step * a), atol=tolerance)
  np.testing.assert_allclose(gain, np.expm1(step * a) / a, rtol=tolerance)


def test_a_system_without_dynamics_has_a_finite_gain_and_gradient():
  gain, derivative = jax.value_and_grad(lambda a: zero_order_hold(a, 0.0, 0.0)[1].real)(-200.0)
  assert gain == 1 and np.isfinite(derivative)
