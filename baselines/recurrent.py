"""Recurrent networks, which summarize tokens 0..t in a hidden state of fixed size.

  Elman (1990)   h' = tanh(W x + U h + b)
  LSTM           i, f, o = sigmoid(W x + U h + b),  g = tanh(W x + U h + b)
                 c' = f c + i g,  h' = o tanh(c')          (Hochreiter and Schmidhuber 1997;
                                                            forget gate: Gers et al. 2000)
  GRU            r, u = sigmoid(W x + U h + b),  n = tanh(W x + b + r (U h))
                 h' = (1 - u) n + u h                      (Cho et al. 2014; r after the product,
                                                            as in cuDNN; U h has no separate bias
                                                            unless `recurrent_bias` is set)

A recurrent cell consists of its equation and the derivatives of that equation. The products W x are
computed for all tokens at once before the loop. The loop, which includes the products U h, is that
of `baselines.unroll`.
"""

from typing import ClassVar

import jax.numpy as jnp
from flax import linen as nn

from baselines.unroll import (
  RecurrentCell,
  StepDerivatives,
  gate_activations,
  gate_derivatives,
  per_gate,
  split_gates,
  stack_gates,
  unroll,
)
from transformer.dense import Dense
from transformer.layer import SequenceLayer, apply_mask
from transformer.options import (
  require_finite_option_values,
  require_one_of,
  require_option_values_at_least,
)

RECURRENT_INITS = ('orthogonal', 'normal')


class ElmanCell(RecurrentCell):
  """The Elman recurrence h' = tanh(z) for the preactivation z = W x + U h + b."""

  @staticmethod
  def step(input_projection, recurrent_projection, state):
    h = jnp.tanh(input_projection + recurrent_projection)
    return (h[..., 0, :],), StepDerivatives(1 - h**2)

  @staticmethod
  def preactivation_gradient(derivatives, carried_gradient, hidden_gradient):
    return derivatives.preactivations * hidden_gradient[..., None, :]


class LSTMCell(RecurrentCell):
  """The LSTM recurrence c' = f c + i g, h' = o tanh(c'), with the gates in the order i, f, g, o."""

  carried: ClassVar[tuple[int, ...]] = (1,)  # c
  activation_functions: ClassVar[tuple[str, ...]] = ('sigmoid', 'sigmoid', 'tanh', 'sigmoid')

  @staticmethod
  def step(input_projection, recurrent_projection, state):
    (_, c), functions = state, LSTMCell.activation_functions
    gates = gate_activations(input_projection + recurrent_projection, functions)
    i, f, g, o = split_gates(gates)
    after = f * c + i * g
    tanh_c = jnp.tanh(after)
    # The derivatives of c' for the gates i, f and g, and of h' for the gate o.
    derivatives = stack_gates(g, c, i, tanh_c) * gate_derivatives(gates, functions)
    return (o * tanh_c, after), StepDerivatives(derivatives, f, o * (1 - tanh_c**2))

  @staticmethod
  def carried_gradient(others, retained_gradient, hidden_gradient):
    ((c,), h_by_c) = retained_gradient, others
    return (c + hidden_gradient * h_by_c,)

  @staticmethod
  def preactivation_gradient(derivatives, carried_gradient, hidden_gradient):
    (c,), h = carried_gradient, hidden_gradient
    return derivatives.preactivations * stack_gates(c, c, c, h)


class GRUCell(RecurrentCell):
  """The GRU recurrence h' = (1 - u) n + u h, with the gates in the order r, u, n."""

  carried: ClassVar[tuple[int, ...]] = (0,)  # h
  splits_input_projection: ClassVar[bool] = True

  @staticmethod
  def step(input_projection, recurrent_projection, state):
    (h,), inputs, products = state, input_projection, split_gates(recurrent_projection)
    r, u = (0.5 + 0.5 * jnp.tanh(0.5 * (x + y)) for x, y in zip(inputs[:2], products, strict=False))
    n = jnp.tanh(inputs[2] + r * products[2])
    h_by_n = (1 - u) * (1 - n**2)
    derivatives = stack_gates(h_by_n * products[2] * r * (1 - r), (h - n) * u * (1 - u), h_by_n)
    return ((1 - u) * n + u * h,), StepDerivatives(derivatives, u, r)

  @staticmethod
  def carried_gradient(others, retained_gradient, hidden_gradient):
    (h,) = retained_gradient
    return (h + hidden_gradient,)

  @staticmethod
  def preactivation_gradient(derivatives, carried_gradient, hidden_gradient):
    (h,) = carried_gradient
    return derivatives.preactivations * h[..., None, :]

  @staticmethod
  def recurrent_projection_gradient(others, preactivation_gradient):
    # The reset gate r multiplies the recurrent projection of the candidate n.
    is_candidate = per_gate((False, False, True), preactivation_gradient.ndim)
    return preactivation_gradient * jnp.where(is_candidate, others[..., None, :], 1)


class Recurrent(SequenceLayer):
  """Base class of layers that apply a recurrent cell to the tokens in sequence.

  The state is a tuple of arrays [B, H], the output h first. H is the width D of the model. The loop
  computes in float32, because the state accumulates contributions of all previous tokens.
  """

  # 'orthogonal' initializes the recurrent kernel U with orthonormal rows (Saxe et al. 2014).
  # Orthonormal rows of U [H, G H], for H units and G gates, have entries of variance 1 / (G H).
  # 'normal' initializes the recurrent kernel with entries of variance 1 / H.
  recurrent_init: str = 'orthogonal'
  recurrent_gain: float = 1.0  # multiplies the initial U

  cell: ClassVar[type[RecurrentCell]]
  gates: ClassVar[int]  # G, the number of projections of x, and of h, per unit
  num_states: ClassVar[int] = 1

  def __post_init__(self):
    super().__post_init__()
    require_one_of(self, 'recurrent_init', RECURRENT_INITS)
    require_option_values_at_least(self, 0, 'recurrent_gain')

  def bias_initializer(self, key, shape, dtype=jnp.float32):
    """Initializes the bias b of the input projection.

    Args:
      key: the random key.
      shape: the shape of the bias, (G * H,).
      dtype: the dtype of the bias.

    Returns:
      The initial bias [G * H], with the gates in the order of the recurrent cell.

    """
    return nn.initializers.zeros(key, shape, dtype)

  def _recurrent_kernel_initializer(self, key, shape, dtype=jnp.float32):
    """The initial U [H, G * H]."""
    initializers = {
      'orthogonal': nn.initializers.orthogonal(self.recurrent_gain),
      'normal': nn.initializers.normal(self.recurrent_gain * shape[0] ** -0.5),
    }
    return initializers[self.recurrent_init](key, shape, dtype)

  def recurrent_projection_bias(self, parent_module: nn.Module, width: int):
    """Creates the optional bias [G * H] of U h in `parent_module`, or returns None."""
    del parent_module, width

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    return (jnp.zeros((batch_size, width)),) * self.num_states

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    (batch_size, length, width), gates = x.shape, self.gates
    if state is None:
      state = self.initial_state(batch_size, length, width)
    # With time and batch merged into a single axis, the gradient for W is a plain matrix product.
    x = apply_mask(x, mask).swapaxes(0, 1).reshape(length * batch_size, width)
    project = Dense(gates * width, bias_init=self.bias_initializer, dtype=x.dtype, name='input')
    input_projection = project(x).astype(jnp.float32).reshape(length, batch_size, gates, width)
    kernel = self.param(
      'recurrent_kernel', self._recurrent_kernel_initializer, (width, gates * width)
    )
    valid = None if mask is None else mask.T[..., None]
    bias = self.recurrent_projection_bias(self, width)
    hidden, state = unroll(self.cell, kernel.astype(x.dtype), input_projection, state, valid, bias)
    return hidden.swapaxes(0, 1).astype(x.dtype), state


class Elman(Recurrent):
  """The simple recurrent network of Elman (1990)."""

  cell: ClassVar[type[RecurrentCell]] = ElmanCell
  gates: ClassVar[int] = 1


class LSTM(Recurrent):
  """Long short-term memory, whose gates control what enters, stays in and leaves the cell state.

  Examples:
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from baselines.recurrent import LSTM
    >>> layer, x = LSTM(), jnp.ones((2, 5, 8))  # [B, T, D]
    >>> parameters = layer.init(jax.random.key(0), x)
    >>> y, (h, c) = layer.apply(parameters, x)
    >>> y.shape, h.shape, c.shape
    ((2, 5, 8), (2, 8), (2, 8))
    >>> y, state = layer.apply(parameters, x[:, :1], (h, c))  # a further token
    >>> y.shape
    (2, 1, 8)

  """

  forget_bias: float = 1.0  # opens the forget gate at initialization (Jozefowicz et al. 2015)

  cell: ClassVar[type[RecurrentCell]] = LSTMCell
  gates: ClassVar[int] = 4
  num_states: ClassVar[int] = 2

  def __post_init__(self):
    super().__post_init__()
    require_finite_option_values(self, 'forget_bias')

  def bias_initializer(self, key, shape, dtype=jnp.float32):
    """Initializes the bias with `forget_bias` for the forget gate, and with zero elsewhere."""
    bias = jnp.zeros((self.gates, shape[0] // self.gates), dtype)
    return bias.at[1].set(self.forget_bias).ravel()


class GRU(Recurrent):
  """Gated recurrent unit, whose hidden state is a gated sum, without a separate cell state.

  With `recurrent_bias` the candidate is tanh(W x + b + r (U h + c)). c is b_hn of PyTorch, without
  which PyTorch weights cannot be loaded. The biases b_hr and b_hz of PyTorch only occur in sums
  with b and need no parameters.
  """

  recurrent_bias: bool = False

  cell: ClassVar[type[RecurrentCell]] = GRUCell
  gates: ClassVar[int] = 3

  def recurrent_projection_bias(self, parent_module, width):
    """Returns the bias of the product U h, or None if `recurrent_bias` is false.

    The bias is a parameter for the candidate and zero for the gates.
    """
    if not self.recurrent_bias:
      return None
    bias = parent_module.param('recurrent_bias', nn.initializers.zeros, (width,))
    return jnp.pad(bias, (2 * width, 0))
