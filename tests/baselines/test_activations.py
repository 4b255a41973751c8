"""Activation functions and their gradients equal their definitions in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from baselines.activations import (
  gated_linear_unit,
  log_sigmoid,
  multiply_by_silu,
  silu,
  softplus,
)
from tests.support import reference
from tests.support.float64 import float64_enabled

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


@pytest.mark.parametrize(
  ('function', 'definition', 'widths'),
  [
    (silu, lambda x: x / (1 + jnp.exp(-x)), [6]),
    (multiply_by_silu, lambda x, gate: x * gate / (1 + jnp.exp(-gate)), [6, 6]),
    (gated_linear_unit, lambda x: x[:, :3] / (1 + jnp.exp(-x[:, 3:])), [6]),
  ],
)
def test_values_and_gradients_equal_the_definition(function, definition, widths):
  with float64_enabled():
    generator = np.random.default_rng(0)
    arguments = [jnp.array(generator.normal(0, 5, (4, width))) for width in widths]

    def values_and_gradients(function):
      values, backward = jax.vjp(function, *arguments)
      return values, backward(jnp.sin(values + 1))

    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12),
      jax.jit(values_and_gradients, static_argnums=0)(function), values_and_gradients(definition))
