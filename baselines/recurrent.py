"""Recurrent networks: one token after another, all of the past in a vector of fixed size.

  Elman (1990)   h' = tanh(W x + U h + b)
  LSTM           i, f, o = sigmoid(W x + U h + b),  g = tanh(W x + U h + b)
                 c' = f c + i g,  h' = o tanh(c')          (Hochreiter and Schmidhuber 1997;
                                                            forget gate: Gers et al. 2000)
  GRU            r, u = sigmoid(W x + U h + b),  n = tanh(W x + b + r (U h))
                 h' = (1 - u) n + u h                      (Cho et al. 2014; r after the product,
                                                            as in cuDNN; U h has no bias of its own
                                                            unless `recurrent_bias` is set)

A cell is its equation and that equation's derivatives, nothing else: the products W x are done for
all times at once before the loop, and the loop, with U h in it, is `baselines.unroll`'s.
"""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn

from baselines.unroll import RecurrentCell, gate_activations, split, unroll
from transformer.layer import SequenceLayer, masked
from transformer.options import at_least, finite, one_of

RECURRENT_INITS = ('orthogonal', 'normal')


class ElmanCell(RecurrentCell):
  """h' = tanh(z)."""

  @staticmethod
  def step(input_projection, product, state):
    return (jnp.tanh(input_projection + product)[..., 0, :],), ()

  @staticmethod
  def slopes(gates, before, after):
    return 1 - after[0][..., None, :] ** 2

  @staticmethod
  def pull(slopes, gradient):
    return slopes * gradient[0][..., None, :], (0,)


class LSTMCell(RecurrentCell):
  """c' = f c + i g,  h' = o tanh(c'); the gates are in the order i, f, g, o."""

  @staticmethod
  def step(input_projection, product, state):
    _, c = state
    gates = gate_activations(input_projection + product, (0.5, 0.5, 1, 0.5))
    i, f, g, o = split(gates)
    c = f * c + i * g
    return (o * jnp.tanh(c), c), gates

  @staticmethod
  def slopes(gates, before, after):
    (i, f, g, o), c, read = split(gates), before[1], jnp.tanh(after[1])
    written = jnp.stack((g * i * (1 - i), c * f * (1 - f), i * (1 - g**2)), -2)  # c' by i, f, g
    opened = read * o * (1 - o)  # h' by o
    return written, opened[..., None, :], o * (1 - read**2), f

  @staticmethod
  def pull(slopes, gradient):
    (written, opened, read, kept), (h, c) = slopes, gradient
    c = c + h * read
    gates = jnp.concatenate((written * c[..., None, :], opened * h[..., None, :]), -2)
    return gates, (0, c * kept)


class GRUCell(RecurrentCell):
  """h' = (1 - u) n + u h; the gates are in the order r, u, n."""

  @staticmethod
  def step(input_projection, product, state):
    (h,) = state
    gates = gate_activations(input_projection[..., :2, :] + product[..., :2, :], (0.5, 0.5))
    r, u = split(gates)
    n = jnp.tanh(input_projection[..., 2, :] + r * product[..., 2, :])
    return ((1 - u) * n + u * h,), (gates, n, product[..., 2, :])

  @staticmethod
  def slopes(gates, before, after):
    (h,), (gates, n, product) = before, gates
    r, u = split(gates)
    new = (1 - u) * (1 - n**2)
    return jnp.stack((new * product * r * (1 - r), (h - n) * u * (1 - u), new), -2), u, r

  @staticmethod
  def pull(slopes, gradient):
    (written, kept, _), (h,) = slopes, gradient
    return written * h[..., None, :], (h * kept,)

  @staticmethod
  def through(slopes, gradient):  # to n it goes by way of the reset gate
    *_, r = slopes
    return jnp.concatenate((gradient[..., :2, :], gradient[..., 2:, :] * r[..., None, :]), -2)


class Recurrent(SequenceLayer):
  """A loop over time around a cell. Its state is a tuple of arrays [B, H], the output h first.

  The width of the state, H, is the width D of the model. The loop computes in float32, since the
  state is a sum over the whole past.
  """

  # Of U [H, G H] at the start: orthonormal rows (Saxe et al. 2014), or variance 1 / H everywhere,
  # which for several gates is G times as much. Either is multiplied by the gain.
  recurrent_init: str = 'orthogonal'
  recurrent_gain: float = 1.0

  cell: ClassVar[type[RecurrentCell]]
  gates: ClassVar[int]  # G, how many products with x, and with h, the cell reads
  num_states: ClassVar[int] = 1

  def __post_init__(self):
    super().__post_init__()
    one_of(self, 'recurrent_init', RECURRENT_INITS)
    at_least(self, 0, 'recurrent_gain')

  def bias(self, key, shape, dtype=jnp.float32):
    """The initial bias [G * H]."""
    return nn.initializers.zeros(key, shape, dtype)

  def kernel(self, key, shape, dtype=jnp.float32):
    """The initial U [H, G * H]."""
    initialisers = {
      'orthogonal': nn.initializers.orthogonal(self.recurrent_gain),
      'normal': nn.initializers.normal(self.recurrent_gain * shape[0] ** -0.5),
    }
    return initialisers[self.recurrent_init](key, shape, dtype)

  def product_bias(self, module: nn.Module, width: int):
    """The bias [G * H] of the product U h, a parameter of the module; None: there is none."""
    del module, width

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Zeros."""
    return (jnp.zeros((batch_size, width)),) * self.num_states

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    (batch_size, length, width), gates = x.shape, self.gates
    if state is None:
      state = self.initial_state(batch_size, length, width)
    # The loop runs over time; time and batch as one axis make the gradient for W one plain product.
    x = masked(x, mask).swapaxes(0, 1).reshape(length * batch_size, width)
    project = nn.Dense(gates * width, bias_init=self.bias, dtype=x.dtype, name='input')
    input_projection = project(x).astype(jnp.float32).reshape(length, batch_size, gates, width)
    kernel = self.param('recurrent_kernel', self.kernel, (width, gates * width))
    valid = None if mask is None else mask.T[..., None]
    bias = self.product_bias(self, width)
    hidden, state = unroll(self.cell, kernel.astype(x.dtype), input_projection, state, valid, bias)
    return hidden.swapaxes(0, 1).astype(x.dtype), state


class Elman(Recurrent):
  """The simple recurrent network."""

  cell: ClassVar[type[RecurrentCell]] = ElmanCell
  gates: ClassVar[int] = 1


class LSTM(Recurrent):
  """Long short-term memory: a sum that gates write to, clear and read."""

  forget_bias: float = 1.0  # an open forget gate at the start (Jozefowicz et al. 2015)

  cell: ClassVar[type[RecurrentCell]] = LSTMCell
  gates: ClassVar[int] = 4
  num_states: ClassVar[int] = 2

  def __post_init__(self):
    super().__post_init__()
    finite(self, 'forget_bias')

  def bias(self, key, shape, dtype=jnp.float32):
    """Zeros, but `forget_bias` for the forget gate."""
    bias = jnp.zeros((self.gates, shape[0] // self.gates), dtype)
    return bias.at[1].set(self.forget_bias).ravel()


class GRU(Recurrent):
  """Gated recurrent unit: the LSTM's sum without a second vector.

  With `recurrent_bias` the candidate is tanh(W x + b + r (U h + c)): c is PyTorch's b_hn, without
  which its weights cannot be loaded. Its b_hr and b_hz are sums with b and need no place.
  """

  recurrent_bias: bool = False

  cell: ClassVar[type[RecurrentCell]] = GRUCell
  gates: ClassVar[int] = 3

  def product_bias(self, module, width):
    """Zeros for the gates, c for the candidate."""
    if not self.recurrent_bias:
      return None
    bias = module.param('recurrent_bias', nn.initializers.zeros, (width,))
    return jnp.pad(bias, (2 * width, 0))
