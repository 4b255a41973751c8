"""Sums and repeated terms equal their definitions in value and gradient, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.float64 import float64_enabled
from transformer import broadcasting

PRODUCTS = {
  'multiply_channels': (lambda x, scale: x * jnp.broadcast_to(scale, x.shape), [(3, 4), (4,)]),
  'add_to_channels': (lambda x, bias: x + jnp.broadcast_to(bias, x.shape), [(3, 4), (4,)]),
  'multiply_tokens': (lambda x, factor: x * factor, [(1,)]),
  'sum_of_products': (lambda x, y: jnp.sum(x * y, -1, keepdims=True), [None]),
}
CASES = [(name, shape) for name, (_, shapes) in PRODUCTS.items() for shape in shapes]


@pytest.mark.parametrize('leading', [(2, 5), (1, 5), (5, 1), (0, 2)])
@pytest.mark.parametrize(('name', 'shape'), CASES)
def test_values_and_gradients_equal_the_definition(name, shape, leading):
  definition, _ = PRODUCTS[name]
  shape_of_x = (*leading, 3, 4)
  if shape is None:
    shape = shape_of_x
  elif shape == (1,):
    shape = (*leading, 3, 1)
  with float64_enabled():
    x = jax.random.normal(jax.random.key(0), shape_of_x, jnp.float64)
    y = jax.random.normal(jax.random.key(1), shape, jnp.float64)

    def values_and_gradients(function):
      values, backward = jax.vjp(function, x, y)
      return values, backward(jnp.sin(values + 1))

    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12),
      *map(values_and_gradients, (getattr(broadcasting, name), definition)))


@pytest.mark.parametrize('name', ['multiply_channels', 'add_to_channels'])
def test_gradients_have_the_dtypes_of_the_inputs(name):
  x, parameter = jnp.ones((2, 3, 4), jnp.bfloat16), jnp.ones(4)
  values, backward = jax.vjp(getattr(broadcasting, name), x, parameter)
  assert [gradient.dtype for gradient in backward(values)] == [jnp.bfloat16, jnp.float32]
