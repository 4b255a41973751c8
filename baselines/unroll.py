"""Unrolling of recurrent cells over time, with backpropagation through time written by hand.

A recurrent cell is a class of four elementwise functions.

  step(input_projection, recurrent_projection, state) -> state', saved_values
  local_derivatives_of_step(saved_values, state, state') -> step_derivatives
  step_vjp(step_derivatives, d_state') -> d_preactivations, d_state
  recurrent_projection_vjp(step_derivatives, d_preactivations) -> d_recurrent_projection

Here input_projection = W x + b, and recurrent_projection = U h plus an optional bias. The gradients
d_... belong to a scalar loss, and `step_vjp` is linear in d_state'. In the backward loop only
`step_vjp` and the product d_recurrent_projection U^T depend on the later step. The derivatives of
the steps are computed for all tokens at once before that loop, and

  d_U = sum_t h_{t-1}^T d_recurrent_projection_t

is a single matrix product after it. Automatic differentiation would accumulate a matrix at every
step. The hand-written gradient cannot be differentiated again, and forward-mode differentiation of
the loop is not supported.
"""

import functools
import math

import jax
import jax.numpy as jnp


class RecurrentCell:
  """Interface of the recurrent cells that `unroll` accepts.

  The G gates of a cell are stacked as [..., G, H].
  """

  @staticmethod
  def step(input_projection, recurrent_projection, state):
    """Applies the equation of the recurrent cell to the inputs of a single token.

    Args:
      input_projection: W x + b, [..., G, H].
      recurrent_projection: U h with its optional bias, [..., G, H].
      state: a tuple of arrays [..., H], the hidden state h first.

    Returns:
      The next state, a tuple as `state`, and the saved values for `local_derivatives_of_step`.

    """
    raise TypeError('a recurrent cell must define step')

  @staticmethod
  def local_derivatives_of_step(saved_values, state_before, state_after):
    """Computes the local derivatives of a step, which `step_vjp` multiplies by loss gradients.

    They do not depend on the gradient of the loss, and are computed for all tokens at once.

    Args:
      saved_values: the second result of `step`.
      state_before: the state before the step, a tuple of arrays [..., H].
      state_after: the state after the step, a tuple of arrays [..., H].

    Returns:
      The derivatives that `step_vjp` and `recurrent_projection_vjp` multiply gradients by.

    """
    raise TypeError('a recurrent cell must define local_derivatives_of_step')

  @staticmethod
  def step_vjp(step_derivatives, state_gradient):
    """Maps the gradient for the next state to gradients for preactivations and the previous state.

    Returns the gradient for the gate preactivations [..., G, H] and the gradient for the previous
    state, a tuple of arrays. The path to h through the recurrent projection is added by `unroll`.
    """
    raise TypeError('a recurrent cell must define step_vjp')

  @staticmethod
  def recurrent_projection_vjp(step_derivatives, preactivation_gradient):
    """Maps the gradient for the gate preactivations to the gradient for the recurrent projection.

    The gradients are equal in cells that only add the recurrent projection.
    """
    del step_derivatives
    return preactivation_gradient


def gate_activations(
  preactivations: jax.Array, activation_functions: tuple[str, ...]
) -> jax.Array:
  """Applies 'sigmoid' or 'tanh' to the preactivations [..., G, H] of each of the G gates.

  Since sigmoid(z) = 1/2 + 1/2 tanh(z / 2), a single tanh computes all gates. It vectorizes inside a
  loop, whereas an exponential and functions of slices do not.
  """
  tanh_scales = {'sigmoid': 0.5, 'tanh': 1.0}
  scale = jnp.array([tanh_scales[name] for name in activation_functions])
  scale = scale.reshape((1,) * (preactivations.ndim - 2) + (-1, 1))
  return 1 - scale + scale * jnp.tanh(scale * preactivations)


def split_gates(gates: jax.Array) -> tuple[jax.Array, ...]:
  """Splits gates [..., G, H] into G arrays [..., H]."""
  return tuple(gates[..., k, :] for k in range(gates.shape[-2]))


def dot_with_float32_accumulation(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Computes the product of x and a kernel in the dtype of the kernel, with sums in float32."""
  return jnp.dot(x.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)


def _select_new_where_valid(valid, new, old):
  """Returns the new arrays at valid tokens and the old arrays at padding, for a mask [B, 1]."""
  if valid is None:
    return new
  return tuple(jnp.where(valid, n, o) for n, o in zip(new, old, strict=True))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def unroll(cell: type[RecurrentCell], kernel, input_projection, state, valid=None, bias=None):
  """Applies a recurrent cell to all tokens in sequence.

  Args:
    cell: a subclass of `RecurrentCell`.
    kernel: U [H, G * H]. Products are computed in its dtype and summed in float32.
    input_projection: W x + b [T, B, G, H].
    state: a tuple of arrays [B, H], the hidden state h first.
    valid: [T, B, 1], false where the state is left unchanged, or None for no padding.
    bias: [G * H], added to the product U h in float32, or None.

  Returns:
    The hidden states h [T, B, H] of all tokens and the state after the last token.

  Examples:
    >>> import jax.numpy as jnp
    >>> from baselines.recurrent import LSTMCell
    >>> from baselines.unroll import unroll
    >>> length, batch, gates, width = 5, 2, 4, 3
    >>> kernel = jnp.zeros((width, gates * width))
    >>> projection = jnp.ones((length, batch, gates, width))
    >>> state = (jnp.zeros((batch, width)), jnp.zeros((batch, width)))  # h and c
    >>> hidden, (h, c) = unroll(LSTMCell, kernel, projection, state)
    >>> hidden.shape, h.shape, c.shape
    ((5, 2, 3), (2, 3), (2, 3))
    >>> round(float(h[0, 0]), 3)
    0.678

  """
  return _unroll_forward(cell, kernel, input_projection, state, valid, bias)[0]


def _unroll_forward(cell, kernel, input_projection, state, valid, bias):
  def forward_step(state, inputs):
    input_projection, valid = inputs
    product = dot_with_float32_accumulation(state[0], kernel)
    product = product if bias is None else product + bias[None]
    product = product.reshape(input_projection.shape)
    after, saved_values = cell.step(input_projection, product, state)
    after = _select_new_where_valid(valid, after, state)
    return after, (after, saved_values)

  last, (states, saved_values) = jax.lax.scan(forward_step, state, (input_projection, valid))
  return (states[0], last), (kernel, state, states, saved_values, valid, bias)


def _unroll_backward(cell, saved_arrays, gradients):
  kernel, start, after, saved_values, valid, bias = saved_arrays
  hidden_gradients, last_gradient = gradients  # for h at every token and for the last state
  before = tuple(  # The slice makes sequences without a token possible.
    jnp.concatenate([s[None], a[:-1]])[: len(a)] for s, a in zip(start, after, strict=True)
  )
  step_derivatives = cell.local_derivatives_of_step(saved_values, before, after)
  transposed = kernel.T

  def backward_step(gradient, inputs):
    hidden_gradient, step_derivatives, valid = inputs
    gradient = (gradient[0] + hidden_gradient, *gradient[1:])
    preactivations, (hidden, *others) = cell.step_vjp(step_derivatives, gradient)
    if valid is not None:
      preactivations = jnp.where(valid[..., None], preactivations, 0)
      hidden, *others = _select_new_where_valid(valid, (hidden, *others), gradient)
    product = cell.recurrent_projection_vjp(step_derivatives, preactivations)
    product = product.reshape(hidden_gradient.shape[0], kernel.shape[1])
    hidden = hidden + dot_with_float32_accumulation(product, transposed)
    return (hidden, *others), preactivations

  start_gradient, preactivations = jax.lax.scan(
    backward_step, last_gradient, (hidden_gradients, step_derivatives, valid), reverse=True
  )
  product = cell.recurrent_projection_vjp(step_derivatives, preactivations)
  bias_gradient = None if bias is None else jnp.sum(product, (0, 1)).reshape(bias.shape)
  rows = math.prod(before[0].shape[:2])
  product = product.astype(kernel.dtype).reshape(rows, kernel.shape[1])
  hidden = before[0].astype(kernel.dtype).reshape(rows, kernel.shape[0])
  kernel_gradient = dot_with_float32_accumulation(hidden.T, product).astype(kernel.dtype)
  return kernel_gradient, preactivations, start_gradient, None, bias_gradient


unroll.defvjp(_unroll_forward, _unroll_backward)
