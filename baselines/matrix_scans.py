"""Scans for linear recurrences whose state is a matrix, the decaying sum of outer products.

  S_t = a_t S_{t-1} + k_t v_t^T,   y_t = S_t^T q_t        S: [K, V], a memory that keys address

The decay a_t is 1 (linear attention), a scalar per head (RetNet, SSD of Mamba-2), or a scalar per
head and key channel (GLA), where S_t = diag(a_t) S_{t-1} + k_t v_t^T. Two forms give the same
result up to rounding.

  recurrent    the definition, a loop over the tokens
  chunked      time is split into chunks of C tokens. With L_ij = log a_{j+1} + ... + log a_i, where
               i and j count from 1 within a chunk, and S the state before the chunk,
                 y_i = sum_{j <= i} exp(L_ij) (q_i . k_j) v_j + exp(L_i0) S^T q_i
                 S'  = exp(L_C0) S + sum_j exp(L_Cj) k_j v_j^T
               are matrix products, computed for all chunks at once. Only S' is passed from chunk to
               chunk.             (Sun et al. 2023, equation 7; Dao and Gu 2024, section 6)

Every exponent is at most 0, so nothing overflows. Every exponent is a sum of terms of equal sign,
never a difference of longer sums, so nothing cancels. The forms therefore agree up to rounding for
any decay.

A decay per channel stays inside the product q_i . k_j. It is factored at a split point between j
and i (Yang et al. 2024, section 4.3): q_i decayed since the split is multiplied by k_j decayed
until the split. Here a chunk is split in the middle, then each half is split, down to single
tokens. Every pair of tokens is separated by exactly one split, so log2(C) products suffice. Each
product covers whole chunks, because products of small blocks are padded to full memory tiles on
accelerators (a step of GLA took 252 MiB of a TPU with blocks, and takes 6 MiB without), and compile
for longer on a CPU.

The gradients are written by hand (see `matrix_scan_blocks`). The backward pass keeps the inputs and
the states before the chunks, and computes everything else again. On a CPU it proceeds, like the
forward pass, in blocks of a few hundred tokens, whose arrays stay in the cache. If the batch is too
large for a single chunk of each sequence, it is processed in groups of sequences, so that the
memory per token does not depend on the length. For 64 sequences of 64 tokens, Mamba-2 with its
gradients takes 12.4 instead of 15.6 KB a token, in the same time.
"""

import jax
import jax.numpy as jnp

from baselines.matrix_scan_blocks import (
  channel_decays,
  gradients_with_channel_decays,
  gradients_with_head_decays,
  head_decays,
  outputs_with_channel_decays,
  outputs_with_head_decays,
)
from baselines.scans import largest_divisor
from transformer import platform
from transformer.broadcasting import multiply_tokens

FORMS = ('auto', 'recurrent', 'chunked')
CPU_TOKENS_PER_BLOCK = 512
MIN_DENOMINATOR = 2.0**-60  # small, but its square is far from rounding to 0


def check_scan_form_and_chunk_size(form: str, chunk_size: int) -> None:
  """Raises a ValueError unless the form is in FORMS and the chunk size is 0 or a power of two."""
  if form not in FORMS:
    raise ValueError(f'unknown form {form!r} of a matrix scan; the forms are {", ".join(FORMS)}')
  if chunk_size < 0 or chunk_size & (chunk_size - 1):
    raise ValueError(
      f'chunk_size must be a power of two, or 0 for the default of the platform, not {chunk_size}'
    )


def split_into_chunks(x: jax.Array, chunk_size: int) -> jax.Array:
  """Splits x [B, T, H, ...] into n chunks of C tokens and pads the last chunk with zeros.

  The result is [n, B, H, C, ...]. Heads precede time, so that products are batches of contiguous
  matrices.
  """
  batch_size, length = x.shape[:2]
  chunks = -(-length // chunk_size)
  x = jnp.pad(x, ((0, 0), (0, chunks * chunk_size - length)) + ((0, 0),) * (x.ndim - 2))
  x = x.reshape(batch_size, chunks, chunk_size, *x.shape[2:])
  return jnp.moveaxis(x, (1, 3), (0, 2))


def join_chunks(x: jax.Array, length: int) -> jax.Array:
  """Joins chunks [n, B, H, C, ...] into [B, T, H, ...], which inverts `split_into_chunks`."""
  x = jnp.moveaxis(x, (0, 2), (1, 3))
  return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]


def safe_divide(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
  """Divides [..., V] by non-negative [..., 1] and returns 0, not NaN, for 0 / 0.

  The denominator is kept above `MIN_DENOMINATOR`. The quotient is a product with the reciprocal,
  which has a finite gradient. The gradient of a division would multiply the incoming gradient by
  the squared reciprocal before the numerator, and overflow.
  """
  return multiply_tokens(numerator, 1 / jnp.maximum(denominator, MIN_DENOMINATOR))


def outer_product_scan(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  log_decay: jax.Array | None,
  initial_state: jax.Array,
  *,
  negative: jax.Array | None = None,
  form: str = 'auto',
  chunk_size: int = 0,
) -> tuple[jax.Array, jax.Array]:
  """Computes the recurrence S_t = a_t S_{t-1} + k_t v_t^T with outputs y_t = S_t^T q_t in float32.

  Args:
    query: q, [B, T, H, K]. A single head, [B, T, 1, K], is shared by all heads.
    key: k, [B, T, H, K] or [B, T, 1, K].
    value: v, [B, T, H, V].
    log_decay: log |a| <= 0, [H], [B, T, H] or [B, T, H, K]. None means a = 1.
    initial_state: S before the first token, [B, H, K, V].
    negative: true where a < 0, with the shape of log_decay [B, T, ...]. None means nowhere.
    form: an entry of FORMS. 'auto' chooses by length.
    chunk_size: C, a power of two. 0 chooses by platform.

  Returns:
    The outputs y [B, T, H, V] and S after the last token, [B, H, K, V].

  Raises:
    ValueError: if the form is not in FORMS or the chunk size is not a power of two.

  Examples:
    Linear attention without a decay, over 6 tokens in 2 heads:

    >>> import jax.numpy as jnp
    >>> from baselines.matrix_scans import outer_product_scan
    >>> query = key = jnp.ones((1, 6, 2, 3))  # [B, T, H, K]
    >>> value = jnp.ones((1, 6, 2, 4))  # [B, T, H, V]
    >>> y, state = outer_product_scan(query, key, value, None, jnp.zeros((1, 2, 3, 4)))
    >>> y.shape, state.shape
    ((1, 6, 2, 4), (1, 2, 3, 4))
    >>> [round(float(output), 3) for output in y[0, :, 0, 0]]
    [3.0, 6.0, 9.0, 12.0, 15.0, 18.0]

  """
  check_scan_form_and_chunk_size(form, chunk_size)
  query, key, value = (x.astype(jnp.float32) for x in (query, key, value))
  if not value.shape[1]:
    return value, initial_state
  log_decay = jnp.zeros((value.shape[2],)) if log_decay is None else log_decay
  # A log decay of -128 gives a decay of 0 in float32, whereas -inf times a mask of 0 would be NaN.
  log_decay = jnp.maximum(log_decay, -128.0)
  arrays = query, key, value, log_decay, initial_state
  if negative is None:
    return _scan_outer_products(*arrays, form, chunk_size)
  # S_t times the sign of the product a_1 ... a_t has the decays |a|.
  sign = jnp.where(jnp.cumsum(negative, 1) % 2 == 1, -1.0, 1.0)
  if sign.ndim == 4:
    arrays = query * sign, key * sign, value, log_decay, initial_state
    y, state = _scan_outer_products(*arrays, form, chunk_size)
    return y, state * sign[:, -1, :, :, None]
  arrays = query, key, value * sign[..., None], log_decay, initial_state
  y, state = _scan_outer_products(*arrays, form, chunk_size)
  return y * sign[..., None], state * sign[:, -1, :, None, None]


def _scan_outer_products(query, key, value, log_decay, state, form, chunk_size):
  """Computes the outputs and the last state for decays that are not negative."""
  length = value.shape[1]
  if form == 'recurrent' or (form == 'auto' and length == 1):
    return _scan_outer_products_by_token(query, key, value, log_decay, state)
  if not chunk_size:
    cpu_chunk_size = 16 if log_decay.ndim == 4 else 32
    chunk_size = cpu_chunk_size if platform.current_platform() == 'cpu' else 64
  # Chunks longer than the smallest power of two that covers the sequence would only add padding.
  chunk_size = min(chunk_size, 1 << (length - 1).bit_length())
  return _scan_outer_products_by_chunk(query, key, value, log_decay, state, chunk_size)


def _scan_outer_products_by_token(query, key, value, log_decay, state):
  decay = jnp.exp(log_decay if log_decay.ndim == 4 else log_decay[..., None])
  decay = jnp.broadcast_to(decay, (*value.shape[:3], decay.shape[-1]))

  def process_token(state, inputs):
    query, key, value, decay = inputs
    state = decay[..., None] * state + key[..., None] * value[..., None, :]
    return state, (query[..., None, :] @ state)[..., 0, :]

  time_major = jax.tree.map(lambda x: x.swapaxes(0, 1), (query, key, value, decay))
  state, y = jax.lax.scan(process_token, state, time_major)
  return y.swapaxes(0, 1), state


def _scan_outer_products_by_chunk(query, key, value, log_decay, state, chunk_size):
  batch_size, length, heads, width = value.shape
  if log_decay.ndim == 4:
    query, key = (jnp.broadcast_to(x, log_decay.shape) for x in (query, key))
  head_groups, chunks = query.shape[2], -(-length // chunk_size)
  sequences, chunks_per_block = batch_size, chunks
  if platform.current_platform() == 'cpu':
    sequences = largest_divisor(batch_size, CPU_TOKENS_PER_BLOCK // chunk_size)
    chunks_per_block = max(1, CPU_TOKENS_PER_BLOCK // (sequences * chunk_size))
  blocks = -(-chunks // chunks_per_block)
  chunks_per_block = -(-chunks // blocks)
  if log_decay.ndim == 1:
    # Decays that do not change over time are equal in all chunks, unless some tokens are padding.
    no_padding = length == blocks * chunks_per_block * chunk_size
    repeated = (1, chunk_size if no_padding else length, heads)
    log_decay = jnp.broadcast_to(log_decay, repeated)

  def split_into_blocks(x):  # [B, T, H, ...] to [groups, blocks, chunks, sequences, H, C, ...]
    x = split_into_chunks(x, chunk_size)
    if len(x) > 1:
      x = jnp.pad(x, ((0, blocks * chunks_per_block - len(x)), *((0, 0),) * (x.ndim - 1)))
    x = x.reshape(-1, min(len(x), chunks_per_block), *x.shape[1:])
    x = x.reshape(*x.shape[:2], -1, min(x.shape[2], sequences), *x.shape[3:])
    return jnp.moveaxis(x, 2, 0)

  # The states of heads with a common query are side by side, [B, G, K, H / G V].
  state = state.reshape(batch_size, head_groups, heads // head_groups, -1, width).swapaxes(2, 3)
  state = state.reshape(-1, sequences, *state.shape[1:3], heads // head_groups * width)
  arrays = (split_into_blocks(x) for x in (query, key, value, log_decay))
  y, state = _scan_outer_products_by_block(*arrays, state)
  state = state.reshape(batch_size, head_groups, -1, heads // head_groups, width).swapaxes(2, 3)
  y = jnp.moveaxis(y, 0, 2)
  y = join_chunks(y.reshape(-1, batch_size, *y.shape[4:]), length)
  return y, state.reshape(batch_size, heads, -1, width)


@jax.custom_vjp
def _scan_outer_products_by_block(query, key, value, log_decay, state):
  """Computes outputs and last states of groups of sequences, one block of chunks after another.

  The arrays are [groups, blocks, chunks, sequences, H, C, ...], and the states [groups, sequences,
  G, K, H / G V].
  """
  return _scan_by_block_forward(query, key, value, log_decay, state)[0]


def _scan_by_block_forward(query, key, value, log_decay, state):
  compute_outputs, _, compute_decays, repeated_decays = _block_functions(log_decay)

  def process_block(state, inputs):
    *arrays, log_decay = inputs
    decays = compute_decays(log_decay) if repeated_decays is None else repeated_decays
    return compute_outputs(state, *arrays, decays)

  def process_group(_, inputs):
    state, *arrays = inputs
    return None, jax.lax.scan(process_block, state, arrays)

  changing = _changing_log_decay(log_decay, repeated_decays, query)
  _, (state, (y, before)) = jax.lax.scan(
    process_group, None, (state, query, key, value, changing))
  return (y, state), (query, key, value, log_decay, before)


def _scan_by_block_backward(residuals, gradients):
  query, key, value, log_decay, before = residuals
  y_gradient, state_gradient = gradients
  _, compute_gradients, compute_decays, repeated_decays = _block_functions(log_decay)

  def process_block(state_gradient, inputs):
    query, key, value, log_decay, *others = inputs
    decays = compute_decays(log_decay) if repeated_decays is None else repeated_decays
    return compute_gradients(state_gradient, query, key, value, decays, *others)

  def process_group(_, inputs):
    state_gradient, *arrays = inputs
    return None, jax.lax.scan(process_block, state_gradient, arrays, reverse=True)

  changing = _changing_log_decay(log_decay, repeated_decays, query)
  _, (state_gradient, gradients) = jax.lax.scan(
    process_group, None, (state_gradient, query, key, value, changing, before, y_gradient))
  *gradients, log_decay_gradient = gradients
  repeats = [axis for axis in range(4) if log_decay.shape[axis] < log_decay_gradient.shape[axis]]
  return *gradients, log_decay_gradient.sum(repeats, keepdims=True), state_gradient


_scan_outer_products_by_block.defvjp(_scan_by_block_forward, _scan_by_block_backward)


def _changing_log_decay(log_decay, repeated_decays, query):
  """The log decays of all groups of sequences, or None if all blocks have the same decays."""
  if repeated_decays is not None:
    return None
  return jnp.broadcast_to(log_decay, (len(query), *log_decay.shape[1:]))


def _block_functions(log_decay):
  """Chooses the functions for a kind of decay, given log decays [groups, blocks, n, B, H, C, ...].

  Returns:
    The functions that compute the outputs, the gradients and the decays of a block, and the decays
    of all blocks if they are the same, otherwise None.

  """
  if log_decay.ndim == 7:
    functions = outputs_with_channel_decays, gradients_with_channel_decays, channel_decays
  else:
    functions = outputs_with_head_decays, gradients_with_head_decays, head_decays
  return *functions, (
    functions[2](log_decay[0, 0]) if log_decay.shape[:2] == (1, 1) else None)
