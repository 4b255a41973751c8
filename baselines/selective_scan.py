"""The selective scan S6 of Mamba, whose states are too large to store for every token.

  h_t = a_t h_{t-1} + b_t x_t^T,   a_t = exp(s_t A),   y_t = h_t^T c_t       h: [N, D], a state
                                                                             of N numbers a channel
The step s_t [D], the input x_t [D], b_t [N] and c_t [N] depend on the token, and A [N, D] does not
(Gu and Dao 2023, algorithm 2). With eigenvalues in [-1,1], a_t is 2 exp(s_t A) - 1 (Grazzi et al.
2025). Two forms give the same result up to rounding.

  sequential    a loop over the tokens, with a gradient of its own
  associative   chunks of tokens, each a tree of pairs (`scans.scan_without_storing_states`)

The gradient of the sequential form stores one state per chunk of tokens and recomputes the states
in between. With g_t the gradient of h_t, and p_t that of the exponent s_t A:

  g_t = c_t dy_t^T + a_{t+1} g_{t+1},   p_t = g_t (da_t / d(s_t A)) h_{t-1}
  dx_t = g_t^T b_t,   db_t = g_t x_t,   dc_t = h_t dy_t,   ds_t = sum_n A p_t,   dA = sum_t s_t p_t

Only the two recurrences and dA run token by token. The exponentials, which are the largest single
cost, are computed once for a whole chunk, and the other sums are taken over a whole chunk. With
N = 16 and D = 98 on one CPU core, values and gradients of this form take 0.5 to 0.6 times as long
as automatic differentiation of the loop with recomputed chunks.

On a CPU, the gradient processes one group of sequences after another, so that the arrays of a chunk
stay in the cache. For 256 sequences of 64 tokens, a Mamba layer with its gradients takes 6.9
instead of 8.8 to 9.5 us a token (two cores), 3.3 instead of 3.9 times its forward pass, and 8.5
instead of 10.2 KB a token.
"""

import functools

import jax
import jax.numpy as jnp

from baselines.scans import largest_divisor, scan_without_storing_states, select_scan_form
from transformer import platform

MIN_CHUNK_SIZE = 4  # tokens; a state per chunk takes at most a quarter of the memory of all states
MIN_CHUNK_ROWS = 128  # tokens times sequences of a chunk, so that its operations are not too small
CPU_GROUP_SIZE = 16  # sequences whose gradients are computed together, so that they fit into caches


def selective_scan(
  step: jax.Array,
  x: jax.Array,
  b: jax.Array,
  c: jax.Array,
  rate: jax.Array,
  initial_state: jax.Array,
  *,
  signed: bool = False,
  form: str = 'auto',
) -> tuple[jax.Array, jax.Array]:
  """Computes the outputs y_t = h_t^T c_t of the recurrence h_t = a_t h_{t-1} + b_t x_t^T.

  Args:
    step: s, [T, B, D]. A step of 0 together with an input of 0 leaves the state unchanged.
    x: the input, which is already multiplied by the step, [T, B, D].
    b: the input weights of every token, [T, B, N].
    c: the output weights of every token, [T, B, N].
    rate: A, [N, D], at most 0.
    initial_state: the state before the first token, [B, N, D].
    signed: whether a_t is 2 exp(s_t A) - 1, in [-1,1], instead of exp(s_t A), in [0,1].
    form: an entry of `scans.FORMS`. 'auto' chooses by platform and length.

  Returns:
    The outputs [T, B, D] and the state after the last token, [B, N, D].

  Raises:
    ValueError: if the form is not in `scans.FORMS`.

  Examples:
    With a rate of 0 the state is the sum of all inputs:

    >>> import jax.numpy as jnp
    >>> from baselines.selective_scan import selective_scan
    >>> step = x = jnp.ones((3, 1, 2))  # [T, B, D]
    >>> b = c = jnp.ones((3, 1, 4))  # [T, B, N]
    >>> y, last = selective_scan(step, x, b, c, jnp.zeros((4, 2)), jnp.zeros((1, 4, 2)))
    >>> [float(value) for value in y[:, 0, 0]]
    [4.0, 8.0, 12.0]
    >>> last.shape
    (1, 4, 2)

  """
  form = select_scan_form(form, len(x))
  if not x.size:  # no token or no sequence
    return x, initial_state
  if form == 'sequential':
    return _sequential_scan((step, x, b, c), rate, initial_state, signed)

  def compute_decay_and_input_term(inputs):
    step, x, b, _ = inputs
    return _decay(step[:, None] * rate[None], signed), b[:, :, None] * x[:, None]

  def readout(h, inputs):
    return jnp.einsum('BND,BN->BD', h, inputs[3])

  return scan_without_storing_states(
    compute_decay_and_input_term, readout, (step, x, b, c), initial_state, form
  )


def _decay(exponent, signed):
  return 2 * jnp.exp(exponent) - 1 if signed else jnp.exp(exponent)


def _group_and_chunk_size(length, batch_size):
  """Returns how many sequences and tokens the gradient processes at once.

  The first number divides the batch size, and the second divides the length, or nearly so.
  """
  sequences = batch_size
  if platform.current_platform() == 'cpu':
    sequences = largest_divisor(batch_size, CPU_GROUP_SIZE)
  chunks = -(-length // max(MIN_CHUNK_SIZE, MIN_CHUNK_ROWS // sequences))
  return sequences, -(-length // chunks)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _sequential_scan(inputs, rate, initial_state, signed):
  def process_token(h, inputs):
    h = _next_state(h, inputs, rate, signed)
    return h, jnp.einsum('BND,BN->BD', h, inputs[3])

  last, y = jax.lax.scan(process_token, initial_state, inputs)
  return y, last


def _next_state(h, inputs, rate, signed):
  """Returns the next state behind a barrier, so that the output does not compute it again."""
  step, x, b, _ = inputs
  decay = _decay(step[:, None] * rate[None], signed)
  return jax.lax.optimization_barrier(decay * h + b[:, :, None] * x[:, None])


def _sequential_scan_forward(inputs, rate, initial_state, signed):
  """Scans the tokens and keeps the state before each chunk, entry k before token k C.

  Each state overwrites the entry of its chunk, so that the last one before the next chunk remains.
  That takes less time than a loop over chunks with a loop over tokens inside.
  """
  length, batch_size = inputs[0].shape[:2]
  _, size = _group_and_chunk_size(length, batch_size)
  entries = -(-length // size) + 1  # the last entry is the state after the sequence
  starts = jnp.zeros((entries, *initial_state.shape), initial_state.dtype)

  def process_token(carry, token):
    h, starts = carry
    t, inputs = token
    h = _next_state(h, inputs, rate, signed)
    starts = _set_entry(starts, t // size + 1, h)
    return (h, starts), jnp.einsum('BND,BN->BD', h, inputs[3])

  (last, starts), y = jax.lax.scan(
    process_token, (initial_state, _set_entry(starts, 0, initial_state)),
    (jnp.arange(length), inputs)
  )
  return (y, last), (inputs, rate, starts)


def _sequential_scan_backward(signed, residuals, cotangents):
  """Computes the gradients chunk by chunk, from the last chunk of each group to its first.

  A group has b of the B sequences. The arrays of a chunk [C, b, N, D] are carried through the loop
  and overwritten. As outputs of inner loops they would be filled with zeros in every chunk, which
  costs a quarter of the time.
  """
  inputs, rate, starts = residuals
  y_gradient, last_gradient = cotangents
  length, batch_size = y_gradient.shape[:2]
  sequences, size = _group_and_chunk_size(length, batch_size)
  chunks = -(-length // size)
  # Padding has steps and inputs of 0, which leave the state and its gradient unchanged.
  padded = tuple(_pad_time(a, chunks * size) for a in (*inputs, y_gradient))

  def process_chunk(i, carry):
    adjoint, adjoints, rate_gradient, buffers, gradients = carry
    first, k = i // chunks * sequences, chunks - 1 - i % chunks  # first sequence, chunk
    chunk = jax.lax.optimization_barrier(tuple(
      jax.lax.dynamic_slice(a, (k * size, first, 0), (size, sequences, a.shape[2]))
      for a in padded
    ))
    start = jax.lax.dynamic_slice_in_dim(_entry(starts, k), first, sequences)
    last = jax.lax.dynamic_slice_in_dim(last_gradient, first, sequences)
    adjoint = jnp.where(k == chunks - 1, last, adjoint)
    adjoint, rate_gradient, buffers, outputs = _chunk_gradients(
      chunk, rate, start, adjoint, rate_gradient, buffers, signed
    )
    gradients = tuple(
      jax.lax.dynamic_update_slice(a, output, (k * size, first, 0))
      for a, output in zip(gradients, outputs, strict=True)
    )
    adjoints = jax.lax.dynamic_update_slice_in_dim(adjoints, adjoint, first, 0)
    return adjoint, adjoints, rate_gradient, buffers, gradients

  group = jnp.zeros((sequences, *last_gradient.shape[1:]), last_gradient.dtype)
  buffers = tuple(jnp.zeros((size, *group.shape), group.dtype) for _ in range(2 + signed))
  carry = (
    group, jnp.zeros_like(last_gradient), group, buffers, tuple(map(jnp.zeros_like, padded[:4])))
  _, adjoints, rate_gradient, _, gradients = jax.lax.fori_loop(
    0, batch_size // sequences * chunks, process_chunk, carry)
  return tuple(a[:length] for a in gradients), jnp.sum(rate_gradient, 0), adjoints


_sequential_scan.defvjp(_sequential_scan_forward, _sequential_scan_backward)


def _chunk_gradients(chunk, rate, start, adjoint, rate_gradient, buffers, signed):
  """Computes the gradients of the inputs of a chunk of C tokens.

  Args:
    chunk: step, x, b, c and the gradient of y, [C, B, ...].
    rate: A, [N, D].
    start: the state before the chunk, [B, N, D].
    adjoint: a g of the token after the chunk, [B, N, D].
    rate_gradient: the part of dA from later chunks, for each sequence, [B, N, D].
    buffers: arrays [C, B, N, D] to write to.
    signed: whether the decay is 2 exp(s A) - 1.

  Returns:
    The adjoint and the rate gradient before the chunk, the buffers, and the gradients of step, x, b
    and c.

  """
  step, x, b, c, dy = chunk
  size = len(step)
  decay = jax.lax.optimization_barrier(_decay(step[:, :, None] * rate[None, None], signed))

  def recompute_state(t, carry):
    h, (decayed, *slopes) = carry
    now = _entry(decay, t) * h
    decayed = jax.lax.optimization_barrier(_set_entry(decayed, t, now))
    slopes = [_set_entry(slope, t, now + h) for slope in slopes]
    h = _entry(decayed, t) + _entry(b, t)[:, :, None] * _entry(x, t)[:, None]
    return h, (decayed, *slopes)

  _, (decayed, *slopes) = jax.lax.fori_loop(0, size, recompute_state, (start, buffers[1:]))
  # The derivative of h_t for the exponent is a_t h_{t-1}, or (a_t + 1) h_{t-1} if a_t is signed.
  slope = slopes[0] if signed else decayed

  def propagate_gradient(k, carry):
    adjoint, state_gradients, rate_gradient = carry
    t = size - 1 - k
    g = _entry(c, t)[:, :, None] * _entry(dy, t)[:, None] + adjoint
    state_gradients = jax.lax.optimization_barrier(_set_entry(state_gradients, t, g))
    g = _entry(state_gradients, t)
    rate_gradient += g * _entry(slope, t) * _entry(step, t)[:, None]
    return _entry(decay, t) * g, state_gradients, rate_gradient

  adjoint, state_gradients, rate_gradient = jax.lax.fori_loop(
    0, size, propagate_gradient, (adjoint, buffers[0], rate_gradient)
  )
  gradients = (
    # A sum of N terms is a single pass over the arrays, and several times faster than a reduction.
    sum(state_gradients[:, :, n] * slope[:, :, n] * rate[n, None, None] for n in range(len(rate))),
    jnp.einsum('CBND,CBN->CBD', state_gradients, b),
    jnp.einsum('CBND,CBD->CBN', state_gradients, x),
    jnp.einsum('CBND,CBD->CBN', decayed, dy) + b * jnp.sum(x * dy, -1, keepdims=True),
  )
  return adjoint, rate_gradient, (state_gradients, decayed, *slopes), gradients


def _entry(array, index):
  return jax.lax.dynamic_index_in_dim(array, index, keepdims=False)


def _set_entry(array, index, value):
  return jax.lax.dynamic_update_index_in_dim(array, value, index, 0)


def _pad_time(array, length):
  """Appends zeros to the first axis of an array up to the given length."""
  padding = length - len(array)
  return jnp.pad(array, ((0, padding), *((0, 0),) * (array.ndim - 1))) if padding else array
