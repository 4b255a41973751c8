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
tokens. Every pair of tokens is separated by exactly one split, so log2(C) products suffice. On a
CPU the products are computed for blocks of growing size, without redundant products. On
accelerators each product covers whole chunks, because the tokens of small blocks would be padded to
full memory tiles (a step of GLA took 252 MiB of a TPU with blocks, and takes 6 MiB without).
"""

import jax
import jax.numpy as jnp

from transformer import platform

FORMS = ('auto', 'recurrent', 'chunked')
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
  return numerator * (1 / jnp.maximum(denominator, MIN_DENOMINATOR))


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
  length = value.shape[1]
  if not length:
    return value, initial_state
  log_decay = jnp.zeros((1,)) if log_decay is None else log_decay
  if log_decay.ndim == 1:
    log_decay = jnp.broadcast_to(log_decay[None, None], (1, length, log_decay.size))
  # A log decay of -128 gives a decay of 0 in float32, whereas -inf times a mask of 0 would be NaN.
  log_decay = jnp.maximum(log_decay, -128.0)
  if negative is not None:  # S_t times the sign of the product a_1 ... a_t has the decays |a|.
    sign = jnp.where(jnp.cumsum(negative, 1) % 2 == 1, -1.0, 1.0)
    channels = sign if sign.ndim == 4 else sign[..., None]
    query, key = query * channels, key * channels
  if form == 'recurrent' or (form == 'auto' and length == 1):
    y, state = _scan_outer_products_by_token(query, key, value, log_decay, initial_state)
  else:
    chunk_size = chunk_size or (32 if platform.current_platform() == 'cpu' else 64)
    # Chunks longer than the smallest power of two that covers the sequence would only add padding.
    chunk_size = min(chunk_size, 1 << (length - 1).bit_length())
    y, state = _scan_outer_products_by_chunk(
      query, key, value, log_decay, initial_state, chunk_size
    )
  return y, (state if negative is None else state * channels[:, -1, :, :, None])


def _scan_outer_products_by_token(query, key, value, log_decay, state):
  decay = jnp.exp(log_decay if log_decay.ndim == 4 else log_decay[..., None])

  def process_token(state, inputs):
    query, key, value, decay = inputs
    state = decay[..., None] * state + key[..., None] * value[..., None, :]
    return state, (query[..., None, :] @ state)[..., 0, :]

  time_major = jax.tree.map(lambda x: x.swapaxes(0, 1), (query, key, value, decay))
  state, y = jax.lax.scan(process_token, state, time_major)
  return y.swapaxes(0, 1), state


def _scan_outer_products_by_chunk(query, key, value, log_decay, state, chunk_size):
  length = value.shape[1]
  if log_decay.ndim == 3:
    decayed_scores = _scores_with_per_head_decay
  elif platform.current_platform() == 'cpu':
    decayed_scores = _blockwise_scores_with_per_channel_decay
  else:
    decayed_scores = _scores_with_per_channel_decay
  query, key, value, log_decay = (
    split_into_chunks(x, chunk_size) for x in (query, key, value, log_decay)
  )
  score, since_start, until_end = decayed_scores(query, key, log_decay)

  def add_chunk_to_state(state, inputs):
    update, decay = inputs
    return decay * state + update, state

  update = (key * until_end).mT @ value
  decays = since_start[..., -1, :, None]
  state, before = jax.lax.scan(add_chunk_to_state, state, (update, decays))
  y = score @ value + (query * since_start) @ before
  return join_chunks(y, length), state


def _scores_with_per_head_decay(query, key, log_decay):
  """Computes attention scores and cumulative decays within a chunk, for a single decay per head.

  The scores q_i . k_j are multiplied by the decay between the tokens j and i. The decays of a
  token are those since the start and until the end of the chunk. The results are the scores
  exp(L_ij) q_i . k_j [.., C, C] and the decays exp(L_i0) [.., C, 1] and exp(L_Cj) [.., C, 1].
  """
  size = log_decay.shape[-1]
  lower = jnp.tri(size, dtype=bool)
  after = jnp.where(jnp.tri(size, k=-1, dtype=bool), log_decay[..., :, None], 0.0)
  between = jnp.matmul(lower.astype(jnp.float32), after, precision='highest')
  decay = jnp.exp(jnp.where(lower, between, -jnp.inf))
  since_start = jnp.exp(jnp.cumsum(log_decay, -1))
  return query @ key.mT * decay, since_start[..., None], decay[..., -1, :, None]


def _scores_with_per_channel_decay(query, key, log_decay):
  """Computes scores and decays like `_scores_with_per_head_decay`, for a decay per key channel.

  The log decays are [.., C, K]. Each of the log2(C) block sizes takes a single product of whole
  chunks.
  """
  size = log_decay.shape[-2]
  decaying_tokens, separated_pairs = _decay_masks_and_score_masks_by_block_size(size)
  decay = jnp.exp(jnp.matmul(decaying_tokens, log_decay[..., None, :, :], precision='highest'))
  levels = len(separated_pairs)
  to_split, since_start, until_end = jnp.split(decay, (levels, levels + 1), -3)
  products = (query[..., None, :, :] * to_split) @ (key[..., None, :, :] * to_split).mT
  diagonal = jnp.where(jnp.eye(size, dtype=bool), jnp.sum(query * key, -1)[..., None], 0.0)
  score = diagonal + jnp.sum(jnp.where(separated_pairs, products, 0.0), -3)
  return score, since_start[..., 0, :, :], until_end[..., 0, :, :]


def _decay_masks_and_score_masks_by_block_size(chunk_size):
  """Returns masks that select log decays and query-key scores, per recursive halving of a chunk.

  The first mask selects the log decays to sum, and the second mask the scores to compute. Each
  level of the recursion divides the chunk into blocks of 2, 4, ... C tokens, and halves each block.
  A token before a split decays by the tokens after it up to the split. A token behind a split
  decays by the tokens since the split, with its own decay included. The last two rows of the first
  mask, [log2(C) + 2, C, C], are for splits before the first token and behind the last token. The
  second mask, [log2(C), C, C], selects the pairs of a token in the second half of a block and a
  token in the first half.
  """
  row, column = jnp.arange(chunk_size)[None, :, None], jnp.arange(chunk_size)[None, None]
  level = jnp.arange(chunk_size.bit_length() - 1)[:, None, None]
  # The halves of blocks have 2^level tokens each and are numbered from 0 along the chunk.
  # Token i is in half number i >> level.
  row_half, column_half = row >> level, column >> level
  behind, since, until = row_half & 1 == 1, column <= row, column > row
  to_split = (row_half == column_half) & jnp.where(behind, since, until)
  decaying_tokens = jnp.concatenate([to_split, since, until]).astype(jnp.float32)
  return decaying_tokens, behind & (column_half == row_half - 1)


def _blockwise_scores_with_per_channel_decay(query, key, log_decay):
  """Computes the results of `_scores_with_per_channel_decay` by merging scores of adjacent blocks.

  Pairs of adjacent blocks of one, two, four, ... tokens are merged, up to the whole chunk.
  """
  query = jnp.broadcast_to(query, log_decay.shape)
  score = jnp.sum(query * key, -1)[..., None, None]
  since, until = log_decay[..., None, :], jnp.zeros_like(log_decay)[..., None, :]
  query, key = query[..., None, :], key[..., None, :]  # [.., blocks, tokens of a block, K]
  while score.shape[-3] > 1:
    pairs = (x[..., half::2, :, :] for x in (query, key, since, until, score) for half in (0, 1))
    query_1, query_2, key_1, key_2, since_1, since_2, until_1, until_2, score_1, score_2 = pairs
    between = (query_2 * jnp.exp(since_2)) @ (key_1 * jnp.exp(until_1)).mT
    score = _concatenate_along_token_axis(
      jnp.concatenate([score_1, jnp.zeros_like(between)], -1),
      jnp.concatenate([between, score_2], -1),
    )
    since = _concatenate_along_token_axis(since_1, since_1[..., -1:, :] + since_2)
    until = _concatenate_along_token_axis(until_1 + since_2[..., -1:, :], until_2)
    query = _concatenate_along_token_axis(query_1, query_2)
    key = _concatenate_along_token_axis(key_1, key_2)
  return score[..., 0, :, :], jnp.exp(since[..., 0, :, :]), jnp.exp(until[..., 0, :, :])


def _concatenate_along_token_axis(first, second):
  return jnp.concatenate([first, second], -2)
