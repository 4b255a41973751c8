"""Recurrent networks: one token after another, all of the past in a vector of fixed size.

  Elman (1990)   h' = tanh(W x + U h + b)
  LSTM           i, f, o = sigmoid(W x + U h + b),  g = tanh(W x + U h + b)
                 c' = f c + i g,  h' = o tanh(c')          (Hochreiter and Schmidhuber 1997;
                                                            forget gate: Gers et al. 2000)
  GRU            r, u = sigmoid(W x + U h + b),  n = tanh(W x + b + r (U h))
                 h' = (1 - u) n + u h                      (Cho et al. 2014; r after the product,
                                                            as in cuDNN)

A cell is its equation and nothing else: the products W x are done for all times at once before
the loop, U h inside it, and the cell gets both.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer.layer import SequenceLayer, masked


def sigmoid(x: jax.Array) -> jax.Array:
  """1 / (1 + exp(-x)) by way of tanh, which vectorises inside a loop where exp does not."""
  return 0.5 + 0.5 * jnp.tanh(0.5 * x)


class Recurrent(SequenceLayer):
  """A loop over time around a cell. Its state is a tuple of arrays [B, H], the output h first.

  The width of the state, H, is the width D of the model. The loop computes in float32, since the
  state is a sum over the whole past.
  """

  gates: ClassVar[int]  # G, how many products with x, and with h, the cell reads
  num_states: ClassVar[int] = 1

  def cell(self, driven, recurrent, state):
    """One step: W x + b and U h, both [B, G, H], and the state -> the next state."""
    raise TypeError(f'{type(self).__name__} has no cell')

  def bias(self, key, shape, dtype=jnp.float32):
    """The initial bias [G * H]."""
    return nn.initializers.zeros(key, shape, dtype)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Zeros."""
    return (jnp.zeros((batch_size, width)),) * self.num_states

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    (batch_size, length, width), gates = x.shape, self.gates
    if state is None:
      state = self.initial_state(batch_size, length, width)
    x = masked(x, mask)
    driven = nn.Dense(gates * width, bias_init=self.bias, dtype=x.dtype, name='input')(x)
    driven = driven.astype(jnp.float32).reshape(batch_size, length, gates, width)
    kernel = self.param(
      'recurrent', nn.initializers.orthogonal(), (width, gates * width)
    ).astype(x.dtype)

    def step(state, now):  # the loop runs over time: [T, B, ...]
      driven, valid = now
      product = jnp.dot(state[0].astype(x.dtype), kernel, preferred_element_type=jnp.float32)
      after = self.cell(driven, product.reshape(driven.shape), state)
      if valid is not None:
        after = tuple(jnp.where(valid, new, old) for new, old in zip(after, state, strict=True))
      return after, after[0]

    valid = None if mask is None else mask.T[..., None]
    state, hidden = jax.lax.scan(step, state, (driven.swapaxes(0, 1), valid))
    return hidden.swapaxes(0, 1).astype(x.dtype), state


class Elman(Recurrent):
  """The simple recurrent network."""

  gates: ClassVar[int] = 1

  def cell(self, driven, recurrent, state):
    """The equation above."""
    return (jnp.tanh(driven + recurrent)[:, 0],)


class LSTM(Recurrent):
  """Long short-term memory: a sum that gates write to, clear and read."""

  forget_bias: float = 1.0  # an open forget gate at the start (Jozefowicz et al. 2015)

  gates: ClassVar[int] = 4
  num_states: ClassVar[int] = 2

  def bias(self, key, shape, dtype=jnp.float32):
    """Zeros, but `forget_bias` for the forget gate."""
    bias = jnp.zeros((self.gates, shape[0] // self.gates), dtype)
    return bias.at[1].set(self.forget_bias).ravel()

  def cell(self, driven, recurrent, state):
    """The equation above; the gates are in the order i, f, g, o."""
    z = driven + recurrent
    i, f, o = sigmoid(z[:, 0]), sigmoid(z[:, 1]), sigmoid(z[:, 3])
    c = f * state[1] + i * jnp.tanh(z[:, 2])
    return o * jnp.tanh(c), c


class GRU(Recurrent):
  """Gated recurrent unit: the LSTM's sum without a second vector."""

  gates: ClassVar[int] = 3

  def cell(self, driven, recurrent, state):
    """The equation above; the gates are in the order r, u, n."""
    r = sigmoid(driven[:, 0] + recurrent[:, 0])
    u = sigmoid(driven[:, 1] + recurrent[:, 1])
    n = jnp.tanh(driven[:, 2] + r * recurrent[:, 2])
    return ((1 - u) * n + u * state[0],)
