"""Dense layers equal those of Flax in value, in gradient and in parameters, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from tests.support.float64 import float64_enabled
from transformer.dense import Dense, DenseGeneral

LAYERS = {
  'more outputs': (Dense(6), nn.Dense(6), (2, 3, 4)),
  'fewer outputs': (Dense(2), nn.Dense(2), (2, 3, 4)),
  'a single token': (Dense(6), nn.Dense(6), (4,)),
  'no tokens': (Dense(6), nn.Dense(6), (2, 0, 4)),
  'several output axes': (DenseGeneral((2, 3)), nn.DenseGeneral((2, 3)), (2, 3, 4)),
  'several input axes': (DenseGeneral(5, (-2, -1)), nn.DenseGeneral(5, (-2, -1)), (3, 2, 4)),
  'other input axes': (DenseGeneral(5, (-3, -1)), nn.DenseGeneral(5, (-3, -1)), (3, 2, 4)),
}


@pytest.mark.parametrize('name', LAYERS)
def test_values_and_gradients_equal_those_of_flax(name):
  layer, flax_layer, shape = LAYERS[name]
  with float64_enabled():
    x = jax.random.normal(jax.random.key(1), shape, jnp.float64)
    parameters = jax.tree.map(
      lambda p: p.astype(jnp.float64) + 0.5, flax_layer.init(jax.random.key(0), x))
    assert jax.tree.map(jnp.shape, parameters) == jax.tree.map(
      jnp.shape, layer.init(jax.random.key(0), x))

    def value_and_gradients(layer):
      return jax.value_and_grad(
        lambda parameters, x: jnp.sum(jnp.sin(layer.apply(parameters, x))), (0, 1))(parameters, x)

    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12),
                 *map(value_and_gradients, (layer, flax_layer)))


def test_layers_of_ensemble_members_are_mapped():
  layer, x = Dense(3), jnp.ones((2, 5, 4))
  parameters = jax.vmap(layer.init)(jax.random.split(jax.random.key(0), 2), x)
  gradient = jax.vmap(jax.grad(lambda p, x: jnp.sum(layer.apply(p, x) ** 2)))(parameters, x)
  single = [
    jax.grad(lambda p, x: jnp.sum(layer.apply(p, x) ** 2))(
      jax.tree.map(lambda leaf, i=i: leaf[i], parameters), x[i]) for i in range(2)]
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-6), gradient,
    jax.tree.map(lambda *leaves: np.stack(leaves), *single))
