"""Softplus and the logarithm of a sigmoid agree with float64, at every scale of their input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from baselines.activations import log_sigmoid, softplus
from tests.support import reference

INPUTS = np.array([-1e4, -90, -20, -3, -1e-3, 0, 0.5, 3, 20, 90, 1e4], np.float32)


@pytest.mark.parametrize(
  ('function', 'value', 'derivative'),
  [
    (softplus, reference.softplus, reference.logistic),
    (log_sigmoid, lambda x: -reference.softplus(-x), lambda x: reference.logistic(-x)),
  ],
)
def test_values_and_derivatives_agree_with_float64(function, value, derivative):
  exact = INPUTS.astype(float)
  np.testing.assert_allclose(function(jnp.array(INPUTS)), value(exact), rtol=1e-6, atol=1e-38)
  slope = jax.vmap(jax.grad(function))(jnp.array(INPUTS))
  np.testing.assert_allclose(slope, derivative(np.clip(exact, -700, 700)), rtol=1e-6, atol=1e-38)
