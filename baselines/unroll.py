"""One loop over time for every recurrent cell, and its gradient by hand.

A cell is a class of four functions of arrays, element by element:

  step(driven, product, state) -> state', gates      its equation
  slopes(gates, state, state') -> slopes             its derivatives
  pull(slopes, d_state') -> d_gates, d_state         one step back; linear in d_state'
  through(slopes, d_gates) -> d_product              how the product reaches the gates

with driven = W x + b and product = U h, to which a bias may be added. On the way back only `pull`
and d_product U^T have to wait for the step that comes later. The slopes are taken of all times at
once before that loop, and

  d_U = sum_t h_{t-1}^T d_product_t

is one matrix product after it, where automatic differentiation adds up a matrix at every step.
The gradient has no derivative of its own, nor has the loop one in forward mode.
"""

import functools
import math

import jax
import jax.numpy as jnp


class RecurrentCell:
  """What `unroll` asks of a cell. The gates G stand side by side, [..., G, H]."""

  @staticmethod
  def step(input_projection, product, state):
    """From [..., G, H] twice and a tuple of [..., H]: the tuple after it, what slopes need."""
    raise TypeError('a cell says what its equation is')

  @staticmethod
  def slopes(gates, before, after):
    """Local derivatives, from what a step kept and the states around it."""
    raise TypeError('a cell says what its derivatives are')

  @staticmethod
  def pull(slopes, gradient):
    """From the gradient for the state after a step to those for the gates and the state before.

    What reaches h by way of the product is added by the loop.
    """
    raise TypeError('a cell says how its gradient goes back')

  @staticmethod
  def through(slopes, gradient):
    """From the gradient for the gates to that for the product; the same where it is only added."""
    del slopes
    return gradient


def gate_activations(z: jax.Array, scale: tuple[float, ...]) -> jax.Array:
  """The gates z [..., G, H] through a sigmoid where scale is 1/2, through tanh where it is 1.

  sigmoid(z) = 1/2 + 1/2 tanh(z / 2), so that all gates are one tanh, which vectorises inside a
  loop, where an exponential and functions of slices do not.
  """
  scale = jnp.array(scale).reshape((1,) * (z.ndim - 2) + (-1, 1))
  return 1 - scale + scale * jnp.tanh(scale * z)


def split(gates: jax.Array) -> tuple[jax.Array, ...]:
  """The gates [..., G, H] one by one."""
  return tuple(gates[..., k, :] for k in range(gates.shape[-2]))


def _multiply(x, kernel):
  """A product in the kernel's dtype, summed in float32."""
  return jnp.dot(x.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)


def _hold(valid, new, old):
  """The new arrays where a token is valid [B, 1], the old ones at padding."""
  if valid is None:
    return new
  return tuple(jnp.where(valid, n, o) for n, o in zip(new, old, strict=True))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def unroll(cell: type[RecurrentCell], kernel, input_projection, state, valid=None, bias=None):
  """Runs a cell over time.

  Args:
    cell: the cell.
    kernel: U [H, G * H]; its dtype is that of the products, which are summed in float32.
    input_projection: W x + b [T, B, G, H].
    state: a tuple of arrays [B, H], h first.
    valid: [T, B, 1] false where the state is held, or None.
    bias: [G * H] added to the product U h in float32, or None.

  Returns:
    h at every time [T, B, H], and the state after the last.

  """
  return _forward(cell, kernel, input_projection, state, valid, bias)[0]


def _forward(cell, kernel, input_projection, state, valid, bias):
  def step(state, now):
    input_projection, valid = now
    product = _multiply(state[0], kernel)
    product = product if bias is None else product + bias[None]
    after, gates = cell.step(input_projection, product.reshape(input_projection.shape), state)
    after = _hold(valid, after, state)
    return after, (after, gates)

  last, (states, gates) = jax.lax.scan(step, state, (input_projection, valid))
  return (states[0], last), (kernel, state, states, gates, valid, bias)


def _backward(cell, residuals, gradients):
  kernel, start, after, gates, valid, bias = residuals
  outer, gradient = gradients  # for h at every time, for the last state
  before = tuple(  # cut for the case of no token at all
    jnp.concatenate([s[None], a[:-1]])[: len(a)] for s, a in zip(start, after, strict=True)
  )
  slopes, transposed = cell.slopes(gates, before, after), kernel.T

  def step(gradient, now):
    outer, slopes, valid = now
    gradient = (gradient[0] + outer, *gradient[1:])
    gates, (hidden, *others) = cell.pull(slopes, gradient)
    if valid is not None:
      gates = jnp.where(valid[..., None], gates, 0)
      hidden, *others = _hold(valid, (hidden, *others), gradient)
    product = cell.through(slopes, gates).reshape(outer.shape[0], kernel.shape[1])
    return (hidden + _multiply(product, transposed), *others), gates

  gradient, gates = jax.lax.scan(step, gradient, (outer, slopes, valid), reverse=True)
  product = cell.through(slopes, gates)
  for_bias = None if bias is None else jnp.sum(product, (0, 1)).reshape(bias.shape)
  rows = math.prod(before[0].shape[:2])
  product = product.astype(kernel.dtype).reshape(rows, kernel.shape[1])
  hidden = before[0].astype(kernel.dtype).reshape(rows, kernel.shape[0])
  for_kernel = _multiply(hidden.T, product).astype(kernel.dtype)
  return for_kernel, gates, gradient, None, for_bias


unroll.defvjp(_forward, _backward)
