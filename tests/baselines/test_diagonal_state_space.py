"""The chunked diagonal state space equals a loop over tokens, with and without padding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from baselines.diagonal_state_space import diagonal_state_space
from tests.support.float64 import float64_enabled

BATCH, WIDTH, SIZE = 2, 3, 4  # SIZE complex states per channel


def outputs_by_definition(x, log_decay, output_kernel, state, mask):
  """Computes y_t = Re(sum_n c_n h_{n,t}) and the last state token by token."""
  def to_complex(parts):
    return jax.lax.complex(parts[..., :SIZE], parts[..., SIZE:])

  decay, kernel, h = jnp.exp(to_complex(log_decay)), to_complex(output_kernel), to_complex(state)
  outputs = []
  for t in range(x.shape[1]):
    after = decay[:, None] * h + x[:, t].T[..., None]
    h = jnp.where(mask[:, t][None, :, None], after, h)
    outputs.append(jnp.sum((kernel[:, None] * h).real, -1).T)
  return jnp.stack(outputs, 1), jnp.concatenate([h.real, h.imag], -1)


@pytest.mark.parametrize('length', [1, 8, 11])
@pytest.mark.parametrize('masked', [False, True])
def test_values_and_gradients_equal_a_loop_over_tokens(length, masked):
  with float64_enabled():
    keys = jax.random.split(jax.random.key(length), 5)
    mask = jnp.ones((BATCH, length), bool)
    if masked:
      mask = jax.random.bernoulli(keys[4], 0.6, mask.shape)
    x = jnp.where(mask[..., None], jax.random.normal(keys[0], (BATCH, length, WIDTH)), 0)
    log_decay = jax.random.normal(keys[1], (WIDTH, 2 * SIZE)) - jnp.repeat(
      jnp.array([2.0, 0.0]), SIZE)[None]
    kernel = jax.random.normal(keys[2], (WIDTH, 2 * SIZE))
    state = jax.random.normal(keys[3], (WIDTH, BATCH, 2 * SIZE))
    log_decay = log_decay.at[:, :SIZE].set(-jnp.abs(log_decay[:, :SIZE]))

    def values_and_gradients(function):
      def valid_outputs(*arguments):
        y, last = function(*arguments)
        return jnp.where(mask[..., None], y, 0), last

      values, backward = jax.vjp(valid_outputs, x, log_decay, kernel, state)
      x_gradient, *gradients = backward(jax.tree.map(jnp.cos, values))
      return values, jnp.where(mask[..., None], x_gradient, 0), gradients

    chunked = functools.partial(
      diagonal_state_space, mask=mask if masked else None, chunk_size=4)
    by_token = functools.partial(outputs_by_definition, mask=mask)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9),
                 *map(values_and_gradients, (chunked, by_token)))
