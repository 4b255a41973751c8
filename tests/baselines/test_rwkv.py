"""The token shift and the bonus of RWKV-7 equal their definitions in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from baselines.rwkv import bonus_of_current_token, mix_with_previous_tokens
from tests.support.float64 import float64_enabled


def assert_equal_in_value_and_gradient(function, definition, *shapes):
  with float64_enabled():
    keys = jax.random.split(jax.random.key(0), len(shapes))
    arguments = [jax.random.normal(key, shape, jnp.float64)
                 for key, shape in zip(keys, shapes, strict=True)]

    def values_and_gradients(function):
      values, backward = jax.vjp(function, *arguments)
      return values, backward(jax.tree.map(lambda y: jnp.sin(y + 1), values))

    # The differences between tokens are float32.
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5),
      *map(values_and_gradients, (function, definition)))


def mix_by_definition(x, first, mixing):
  tokens = [first[:, 0], *(x[:, t] for t in range(x.shape[1]))]
  return [
    jnp.stack(
      [now + mu[None] * (before - now) for before, now in itertools.pairwise(tokens)], 1)
    if x.shape[1] else x
    for mu in mixing]


@pytest.mark.parametrize('length', [0, 1, 5])
def test_the_token_shift_equals_its_definition(length):
  assert_equal_in_value_and_gradient(
    mix_with_previous_tokens, mix_by_definition, (2, length, 3), (2, 1, 3), (6, 3))


def test_the_bonus_equals_its_definition():
  def bonus_by_definition(query, key, value, scale):
    return jnp.einsum('BTHK,HK,BTHK,BTHV->BTHV', query, scale, key, value)

  assert_equal_in_value_and_gradient(
    bonus_of_current_token, bonus_by_definition, *[(2, 5, 3, 4)] * 3, (3, 4))
