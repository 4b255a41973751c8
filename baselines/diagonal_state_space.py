"""Linear recurrences with constant complex decays, in real arithmetic and by matrix products.

  h_t = a h_{t-1} + b_t,   t = 0 .. T - 1

A vector of N complex numbers is stored as 2 N real numbers, first the N real parts and then the N
imaginary parts. Two algorithms make use of the constant decay a.

  complex_linear_scan    all states, in a loop over the tokens. A step takes two real products with
                         arrays of both parts. The gradient da = sum_t g_t conj(h_{t-1}) is summed
                         in the loop back in time, which has all factors at hand.
  diagonal_state_space   the outputs y_t = Re(c h_t) of a state space of N states for each channel,
                         where b_t is the input of the channel. In a chunk of C tokens

                           y_i = sum_{j <= i} K_{i-j} x_j + Re(c a^{i+1} h),   K_t = Re(c a^t)
                           h'  = a^C h + sum_j a^{C-1-j} x_j

                         with the state h before the chunk and h' after it. These are products with
                         a triangular Toeplitz matrix [C, C] and two matrices [C, 2 N] for each
                         channel, and a loop over the T / C chunks        (Dao and Gu 2024, for SSD)

For 4096 tokens in 8 sequences with 64 channels and N = 32, a gradient of the outputs takes 48 ms on
one CPU core by a loop over tokens that recomputes the states, and 10 ms in chunks of 32 tokens.
"""

import functools

import jax
import jax.numpy as jnp

from baselines.long_convolution import triangular_toeplitz
from baselines.scans import linear_scan, select_scan_form


def to_parts(x: jax.Array) -> jax.Array:
  """Converts complex numbers [..., N] to their real and imaginary parts [..., 2 N]."""
  return jnp.concatenate([x.real, x.imag], -1)


def from_parts(x: jax.Array) -> jax.Array:
  """Converts real and imaginary parts [..., 2 N] to complex numbers [..., N]."""
  return jax.lax.complex(*jnp.split(x, 2, -1))


def _with_axis_of_parts(x):
  """Splits the last axis of parts [..., 2 N] into two axes, [..., 2, N]."""
  return x.reshape(*x.shape[:-1], 2, x.shape[-1] // 2)


def _factors_of_product(a):
  """Returns p and q such that the product of a [..., 2 N] with x [..., 2, N] is p x + q swap(x).

  Here swap exchanges the real and the imaginary parts. The product with the conjugate of a is
  p x - q swap(x).
  """
  real, imaginary = jnp.split(a, 2, -1)
  return jnp.stack([real, real], -2), jnp.stack([-imaginary, imaginary], -2)


def _swap(x):
  return x[..., ::-1, :]


def multiply_parts(a: jax.Array, b: jax.Array) -> jax.Array:
  """Computes the complex product of parts [..., 2 N], whose other axes are broadcast."""
  p, q = _factors_of_product(a)
  b = _with_axis_of_parts(b)
  product = p * b + q * _swap(b)
  return product.reshape(*product.shape[:-2], -1)


def exponential(x: jax.Array) -> jax.Array:
  """Computes the complex exponential of parts [..., 2 N]."""
  real, imaginary = jnp.split(x, 2, -1)
  radius = jnp.exp(real)
  return jnp.concatenate([radius * jnp.cos(imaginary), radius * jnp.sin(imaginary)], -1)


def complex_linear_scan(
  decay: jax.Array,
  input_term: jax.Array,
  initial_state: jax.Array,
  mask: jax.Array | None = None,
  form: str = 'auto',
) -> tuple[jax.Array, jax.Array]:
  """Computes all states of h_t = a h_{t-1} + b_t with a constant complex decay a.

  Args:
    decay: the parts of a, [..., 2 N], with as many axes as the initial state. An axis may have
      size 1 if the decay is constant along it.
    input_term: the parts of b, [T, B, ..., 2 N].
    initial_state: the parts of h_{-1}, [B, ..., 2 N], the state before the first token.
    mask: [T, B], false where a step leaves the state unchanged. None means true everywhere.
    form: the form of the scan, an entry of `scans.FORMS`.

  Returns:
    The parts of the states [T, B, ..., 2 N] and of the last state [B, ..., 2 N].

  Examples:
    A rotation by a quarter turn in each step:

    >>> import jax.numpy as jnp
    >>> from baselines.diagonal_state_space import complex_linear_scan
    >>> i = jnp.array([[0.0, 1.0]])  # [B, 2 N], the imaginary unit
    >>> states, last = complex_linear_scan(i, jnp.zeros((3, 1, 2)), jnp.array([[1.0, 0.0]]))
    >>> [[float(part) for part in state[0]] for state in states]
    [[0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]]

  """
  if select_scan_form(form, len(input_term)) == 'associative':
    states, last = linear_scan(
      from_parts(decay)[None], from_parts(input_term), from_parts(initial_state), mask, form
    )
    return to_parts(states), to_parts(last)
  if mask is not None:
    mask = mask.reshape(mask.shape + (1,) * (input_term.ndim - 1))
  return _sequential_scan(decay, input_term, initial_state, mask)


@jax.custom_vjp
def _sequential_scan(decay, input_term, initial_state, valid):
  return _sequential_forward(decay, input_term, initial_state, valid)[0]


def _sequential_forward(decay, input_term, initial_state, valid):
  p, q = _factors_of_product(decay)

  def next_state(h, inputs):
    b, valid = inputs
    new = p * h + q * _swap(h) + b
    h = new if valid is None else jnp.where(valid, new, h)
    return h, h

  inputs = _with_axis_of_parts(input_term), valid
  last, states = jax.lax.scan(next_state, _with_axis_of_parts(initial_state), inputs)
  results = states.reshape(input_term.shape), last.reshape(initial_state.shape)
  return results, (decay, initial_state, states, valid)


def _sequential_backward(residuals, cotangents):
  """Computes the gradients g_t of all states, and sums the products g_t h_{t-1} for the decay.

  The loop back in time pairs the gradient g_{t+1} of the input term, which it carries, with h_t.
  """
  decay, initial_state, states, valid = residuals
  p, q = _factors_of_product(decay)

  def multiply_gradient_and_state(gradient, state):  # [..., 2, 2, N]
    return gradient[..., :, None, :] * state[..., None, :, :]

  def propagate_gradient(carry, inputs):
    later, input_gradient, products = carry
    dh, h, valid = inputs
    products = products + multiply_gradient_and_state(input_gradient, h)
    g = dh + later
    later = p * g - q * _swap(g)
    if valid is None:
      return (later, g, products), g
    input_gradient = jnp.where(valid, g, 0)
    return (jnp.where(valid, later, g), input_gradient, products), input_gradient

  dh, last = (_with_axis_of_parts(cotangent) for cotangent in cotangents)
  zeros = jnp.zeros_like(last)
  start = last, zeros, multiply_gradient_and_state(zeros, zeros)
  (initial_gradient, first, products), input_gradients = jax.lax.scan(
    propagate_gradient, start, (dh, states, valid), reverse=True
  )
  products += multiply_gradient_and_state(first, _with_axis_of_parts(initial_state))
  shared = [i for i, size in enumerate(decay.shape[:-1]) if size != initial_state.shape[i]]
  products = jnp.sum(products, shared, keepdims=True)
  decay_gradient = jnp.concatenate([
    products[..., 0, 0, :] + products[..., 1, 1, :], products[..., 1, 0, :] - products[..., 0, 1, :]
  ], -1)
  return (
    decay_gradient,
    input_gradients.reshape(cotangents[0].shape),
    initial_gradient.reshape(initial_state.shape),
    None,
  )


_sequential_scan.defvjp(_sequential_forward, _sequential_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def powers_of_decay(log_decay: jax.Array, count: int, descending: bool = False) -> jax.Array:
  """Computes a^0, ..., a^(count - 1) for a = exp(z), as parts [D, count, 2 N].

  The powers are products of repeated squares of a, and each has less rounding error than an
  exponential of a large angle. The gradient is sum_t t conj(a^t) dP_t, with the powers P_t.

  Args:
    log_decay: the parts of z, [D, 2 N].
    count: the number of powers, at least 1.
    descending: whether the highest power comes first.

  Returns:
    The parts of the powers [D, count, 2 N].

  """
  return _powers_forward(log_decay, count, descending)[0]


def _powers_forward(log_decay, count, descending):
  num_digits = (count - 1).bit_length()  # of the exponents in base 2
  # Without barriers, XLA computes all factors anew for each power.
  square, squares = jax.lax.optimization_barrier(jnp.exp(from_parts(log_decay))[:, None]), []
  for _ in range(num_digits):
    squares.append(square)
    square = jax.lax.optimization_barrier(square * square)
  low = high = jnp.ones_like(square)
  for factor in squares[: num_digits // 2]:
    low = jnp.concatenate([low, factor * low], 1)
  for factor in squares[num_digits // 2 :]:
    high = jnp.concatenate([high, factor * high], 1)
  if descending:
    low, high = low[:, ::-1], high[:, ::-1]
  low, high = jax.lax.optimization_barrier((to_parts(low), to_parts(high)))
  powers = multiply_parts(high[:, :, None], low[:, None])
  powers = powers.reshape(len(powers), -1, powers.shape[-1])
  powers = powers[:, -count:] if descending else powers[:, :count]
  return powers, powers


def _powers_backward(count, descending, powers, gradient):
  exponents = jnp.arange(count, dtype=gradient.dtype)[None, :, None, None]
  powers, gradient = _with_axis_of_parts(powers), _with_axis_of_parts(gradient)
  scaled = (exponents[:, ::-1] if descending else exponents) * powers
  same, crossed = jnp.sum(scaled * gradient, 1), jnp.sum(scaled * _swap(gradient), 1)
  return (jnp.concatenate([same[:, 0] + same[:, 1], crossed[:, 0] - crossed[:, 1]], -1),)


powers_of_decay.defvjp(_powers_forward, _powers_backward)


def diagonal_state_space(
  x: jax.Array,
  log_decay: jax.Array,
  output_kernel: jax.Array,
  state: jax.Array,
  mask: jax.Array | None = None,
  chunk_size: int = 32,
) -> tuple[jax.Array, jax.Array]:
  """Computes y_t = Re(sum_n c_n h_{n,t}) with h_t = exp(z) h_{t-1} + x_t in each channel.

  Later inputs do not change y_t even by rounding errors.

  Args:
    x: [B, T, D], float32, zero where the mask is false.
    log_decay: the parts of z, [D, 2 N].
    output_kernel: the parts of c, [D, 2 N].
    state: the parts of the state before the first token, [D, B, 2 N].
    mask: [B, T], false where a step leaves the state unchanged. None means true everywhere.
    chunk_size: C, the number of tokens in a chunk. Remaining tokens form a shorter chunk.

  Returns:
    The outputs y [B, T, D] and the parts of the last state [D, B, 2 N].

  Examples:
    A single state for which a = exp(log(1/2)):

    >>> import jax.numpy as jnp
    >>> from baselines.diagonal_state_space import diagonal_state_space
    >>> log_decay, kernel = jnp.array([[jnp.log(0.5), 0.0]]), jnp.array([[1.0, 0.0]])  # [D, 2 N]
    >>> y, last = diagonal_state_space(
    ...   jnp.ones((1, 5, 1)), log_decay, kernel, jnp.zeros((1, 1, 2)), chunk_size=2)
    >>> [round(float(value), 4) for value in y.ravel()]
    [1.0, 1.5, 1.75, 1.875, 1.9375]

  """
  length, outputs = x.shape[1], []
  rest = length % chunk_size
  for part, size in ((slice(0, length - rest), chunk_size), (slice(length - rest, length), rest)):
    if part.start < part.stop:
      part_mask = None if mask is None else mask[:, part]
      y, state = _chunked(x[:, part], log_decay, output_kernel, state, part_mask, size)
      outputs.append(y)
  return jnp.concatenate([x[:, :0], *outputs], 1), state


def _chunked(x, log_decay, output_kernel, state, mask, chunk_size):
  """Computes the outputs and the last state for a number of complete chunks."""
  batch_size, _, width = x.shape
  chunks = x.reshape(batch_size, -1, chunk_size, width)
  if mask is None:
    first_aligned = last_aligned = chunks
  else:
    mask = mask.reshape(chunks.shape[:-1])
    first_aligned, last_aligned = _reorder(chunks, ~mask), _reorder(chunks, mask)

  decay = exponential(log_decay)
  powers = powers_of_decay(log_decay, chunk_size)
  chunk_decay = multiply_parts(decay, powers[:, -1])
  kernel = jnp.einsum('DK,DCK->DC', _conjugate(output_kernel), powers)
  state_to_outputs = _conjugate(
    multiply_parts(multiply_parts(output_kernel, decay)[:, None], powers))
  inputs_to_state = powers_of_decay(log_decay, chunk_size, descending=True)

  y = _rows_of_channels(first_aligned) @ triangular_toeplitz(kernel)
  input_term = _rows_of_channels(last_aligned) @ inputs_to_state
  input_term = input_term.reshape(width, -1, *state.shape[1:]).swapaxes(0, 1)  # [T / C, D, B, 2 N]
  if mask is None:
    states, last = complex_linear_scan(chunk_decay[:, None], input_term, state)
  else:
    powers = jnp.concatenate([powers, chunk_decay[:, None]], 1)
    chunk_decay = powers[:, jnp.sum(mask, -1).T].swapaxes(0, 1)
    states, last = linear_scan(
      from_parts(chunk_decay), from_parts(input_term), from_parts(state))
    states, last = to_parts(states), to_parts(last)
  states_before = jnp.concatenate([state[None], states[:-1]]).swapaxes(0, 1)
  y += jnp.einsum(
    'DMK,DCK->DMC', states_before.reshape(width, -1, state.shape[-1]), state_to_outputs)
  y = y.reshape(width, -1, batch_size, chunk_size).transpose(2, 1, 3, 0)
  if mask is not None:  # Padding receives the output of the valid token before it.
    y = _take_tokens(y, jnp.maximum(jnp.cumsum(mask, -1) - 1, 0))
  return y.reshape(x.shape), last


def _conjugate(x):
  """The conjugates of parts [..., 2 N]."""
  real, imaginary = jnp.split(x, 2, -1)
  return jnp.concatenate([real, -imaginary], -1)


def _rows_of_channels(chunks):
  """Makes channels the first axis of chunks [B, T / C, C, D], [D, T / C * B, C]."""
  chunks = chunks.transpose(3, 1, 0, 2)
  return chunks.reshape(chunks.shape[0], -1, chunks.shape[-1])


def _reorder(chunks, key):
  """Moves the tokens of chunks [B, T / C, C, D] whose key is true behind the other tokens."""
  return _take_tokens(chunks, jnp.argsort(key, -1, stable=True))


def _take_tokens(chunks, index):
  """Takes the tokens with an index [B, T / C, C] from chunks [B, T / C, C, D]."""
  return jnp.take_along_axis(chunks, index[..., None], 2)
