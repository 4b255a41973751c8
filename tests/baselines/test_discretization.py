"""Steps of continuous time against float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from baselines.discretization import held, mean_exponential


def exact(z):
  """(exp(z) - 1) / z and its derivative in float64; as power series where they would cancel."""
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
def test_the_mean_exponential_and_its_derivative_keep_their_digits(size, angle):
  z = np.complex64(10.0**size * np.exp(1j * angle))
  value, slope = exact(np.complex128(z))
  derivative = jax.grad(mean_exponential, holomorphic=True)(jnp.array(z))
  # Of what both come to as far from 0, but for the few points where they vanish, such as 2 pi i.
  scale = min(1, 1 / abs(z))
  assert abs(mean_exponential(jnp.array(z)) - value) <= 1e-6 * scale
  assert abs(derivative - slope) <= 5e-6 * scale


@pytest.mark.parametrize('imaginary', [0.0, 3.0, 100.0])
@pytest.mark.parametrize('step', [1e-7, 1e-4, 0.1, 10.0])
def test_an_input_held_over_a_step_is_the_integral_over_it(step, imaginary):
  parameters = [np.float32(p) for p in (np.log(0.5), imaginary, np.log(step))]
  log_real, imaginary, log_step = (np.float64(p) for p in parameters)
  a, step = -np.exp(log_real) + 1j * imaginary, np.exp(log_step)
  decay, gain = held(*map(jnp.array, parameters))
  # A phase of 1000 has an error of 1000 roundings.
  tolerance = 1e-6 * max(1, abs(step * a))
  np.testing.assert_allclose(decay, np.exp(step * a), atol=tolerance)
  np.testing.assert_allclose(gain, np.expm1(step * a) / a, rtol=tolerance)


def test_a_system_that_does_not_move_has_a_finite_gain_and_gradient():
  gain, slope = jax.value_and_grad(lambda a: held(a, 0.0, 0.0)[1].real)(-200.0)
  assert gain == 1 and np.isfinite(slope)
