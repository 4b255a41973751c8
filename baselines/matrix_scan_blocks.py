"""Outputs and gradients of a block of chunks, the parallel part of the scans in `matrix_scans`.

A block is n consecutive chunks of C tokens of B sequences. Queries and keys are [n, B, G, C, K] and
values [n, B, H, C, V], where each of the G query heads is shared by H / G heads. The states of the
heads with a common query are side by side in one matrix, [B, G, K, H / G V], so that they take part
in the same products. There is a pair of functions for each kind of decay, a scalar per head or a
scalar per head and key channel (then G = H).

With the scores A of a chunk, the decays s since its start and u until its end, the state S before
it and dS' the gradient of the state after it, the equations of `matrix_scans` and their gradients
are
  y  = A v + s (q S)                  A_ij = exp(L_ij) (q_i . k_j),  dA = dy v^T
  S' = s_C S + (u k)^T v              dS = s_C dS' + (s q)^T dy
  dv = A^T dy + u (k dS'),   dq, dk = the gradients through A + (s dy) S^T, (u v) dS'^T
  d log a_t = sum_{j < t <= i} dA_ij A_ij + sum_{i >= t} dy_i . (s_i q_i S)
              + sum_{j < t} v_j . (u_j k_j dS') + s_C <S, dS'>
Every term contains its decays as factors, so that a gradient with respect to a later token is
exactly 0. The cheaper sum of v_j . dv_j - y_j . dy_j (Yang et al. 2024) is equal except for
rounding errors, but these errors make the gradient depend on later tokens.

On a CPU a product whose left factor is stored transposed is up to 4 times slower for small matrices
than the same product after a transposed copy, hence `_transposed`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from transformer import platform
from transformer.broadcasting import sum_of_products


class HeadDecays(NamedTuple):
  """Decays within the chunks of a block, with a scalar per head and token."""

  between: jax.Array  # [n, B, H, C, C], exp(L_ij) from token j to token i >= j, else 0
  since_start: jax.Array  # [n, B, H, C, 1], exp(L_i0)
  until_end: jax.Array  # [n, B, H, C, 1], exp(L_Cj)


class ChannelDecays(NamedTuple):
  """Decays within the chunks of a block, with a scalar per head, token and key channel."""

  to_split: jax.Array  # [n, B, H, log2(C), C, K], between a token and the split of each block size
  since_start: jax.Array  # [n, B, H, C, K]
  until_end: jax.Array  # [n, B, H, C, K]


def _transposed(matrices):
  """Transposes matrices [.., i, j], and on a CPU keeps XLA from merging this into a product."""
  on_cpu = platform.current_platform() == 'cpu'
  return jax.lax.optimization_barrier(matrices.mT) if on_cpu else matrices.mT


def _states_before_chunks(state, updates, decay):
  """Returns the states before each chunk of a block, and the state after the block.

  Args:
    state: the state before the block [B, G, K, M V].
    updates: the update of each chunk [n, B, G, K, M V].
    decay: the decay over each chunk, which broadcasts to the updates. Its first axis can be 1.

  Returns:
    The state after the block and the states before its chunks [n, B, G, K, M V].

  """
  decay = jnp.broadcast_to(decay, (len(updates), *decay.shape[1:]))
  return jax.lax.scan(lambda state, x: (x[1] * state + x[0], state), state, (updates, decay))


def _state_gradients_after_chunks(gradient, updates, decay, before, sum_of_product):
  """Returns the gradients of the states after each chunk of a block, in reverse order.

  Args:
    gradient: the gradient of the state after the block [B, G, K, M V].
    updates: the part of the gradient of the state before each chunk that comes from its outputs.
    decay: the decay over each chunk, as in `_states_before_chunks`.
    before: the states before the chunks [n, B, G, K, M V].
    sum_of_product: sums the product of a state and a gradient over the elements that share
      their decay.

  Returns:
    The gradient of the state before the block, the gradients of the states after its chunks
    [n, B, G, K, M V], and the gradients of the log decays through the decay of each state.

  """
  decay = jnp.broadcast_to(decay, (len(updates), *decay.shape[1:]))

  def process_chunk(gradient, inputs):
    update, decay, before = inputs
    decayed = decay * gradient
    return decayed + update, (gradient, sum_of_product(before * decayed))

  gradient, (after, products) = jax.lax.scan(
    process_chunk, gradient, (updates, decay, before), reverse=True
  )
  return gradient, after, products


def _tokens_between(size):
  """A matrix [C, C C] with ones in row t and column i j where token t is after j and up to i."""
  token, row, column = (jax.lax.broadcasted_iota(int, (size,) * 3, axis) for axis in range(3))
  return ((column < token) & (token <= row)).reshape(size, -1).astype(jnp.float32)


def head_decays(log_decay: jax.Array) -> HeadDecays:
  """Computes the decays within chunks from log decays [n, B, H, C].

  The log decays after token j up to token i are summed by a product with a constant matrix
  [C, C C], whose result needs no transposition.
  """
  size = log_decay.shape[-1]
  between = jnp.matmul(log_decay, _tokens_between(size), precision='highest')
  lower = jnp.tri(size, dtype=bool)
  between = jnp.exp(jnp.where(lower, between.reshape(*log_decay.shape, size), -jnp.inf))
  since_start = jnp.matmul(log_decay, jnp.tri(size).T, precision='highest')
  return HeadDecays(between, jnp.exp(since_start)[..., None], between[..., -1, :, None])


def _group_heads(x, groups):
  """Splits the heads of x [n, B, H, ...] into groups, giving [n, B, G, M, ...]."""
  return x.reshape(*x.shape[:2], groups, -1, *x.shape[3:])


def _heads_side_by_side(x, groups):
  """Puts the vectors of the heads of a group side by side: [n, B, H, C, V] to [n, B, G, C, M V]."""
  x = _group_heads(x, groups).swapaxes(-2, -3)
  return x.reshape(*x.shape[:-2], -1)


def _heads_apart(x, heads):
  """Inverts `_heads_side_by_side`: [n, B, G, C, M V] to [n, B, H, C, V]."""
  x = x.reshape(*x.shape[:-1], heads // x.shape[2], -1).swapaxes(-2, -3)
  return x.reshape(*x.shape[:2], heads, *x.shape[-2:])


def _head_scores(query, key, decays):
  groups = query.shape[2]
  scores = (query @ key.mT)[:, :, :, None] * _group_heads(decays.between, groups)
  return scores.reshape(*scores.shape[:2], -1, *scores.shape[-2:])


def _decay_of_states(decays, groups, width):
  """The decay over a chunk of each column of the states, [n, B, G, 1, M V]."""
  decay = decays.since_start[..., -1:, :]
  return _heads_side_by_side(jnp.broadcast_to(decay, (*decay.shape[:-1], width)), groups)


def outputs_with_head_decays(
  state: jax.Array, query: jax.Array, key: jax.Array, value: jax.Array, decays: HeadDecays
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  """Computes the outputs of a block, with a scalar decay per head.

  Args:
    state: the state before the block [B, G, K, M V].
    query: q, [n, B, G, C, K].
    key: k, [n, B, G, C, K].
    value: v, [n, B, H, C, V].
    decays: the decays of `head_decays`, whose first two axes can be 1.

  Returns:
    The state after the block, and the outputs y [n, B, H, C, V] with the states before the chunks
    [n, B, G, K, M V].

  """
  groups, (heads, _, width) = query.shape[2], value.shape[2:]
  updates = _transposed(key) @ _heads_side_by_side(decays.until_end * value, groups)
  state, before = _states_before_chunks(
    state, updates, _decay_of_states(decays, groups, width)
  )
  from_states = decays.since_start * _heads_apart(query @ before, heads)
  return state, (_head_scores(query, key, decays) @ value + from_states, before)


def gradients_with_head_decays(state_gradient, query, key, value, decays, before, y_gradient):
  """Computes the gradients of a block, with a scalar decay per head.

  Args:
    state_gradient: the gradient of the state after the block [B, G, K, M V].
    query: as for `outputs_with_head_decays`, like `key`, `value` and `decays`.
    key: see `query`.
    value: see `query`.
    decays: see `query`.
    before: the states before the chunks [n, B, G, K, M V].
    y_gradient: the gradient of the outputs [n, B, H, C, V].

  Returns:
    The gradient of the state before the block, and the gradients of the query, the key, the value
    and the log decays [n, B, H, C].

  """
  groups, (heads, _, width) = query.shape[2], value.shape[2:]
  decaying = _heads_side_by_side(decays.since_start * y_gradient, groups)

  def sum_of_product(product):  # [B, G, K, M V]
    shape = (*product.shape[:-1], heads // groups, width)
    return product.reshape(shape).sum((-1, -3)).reshape(-1, heads)

  state_gradient, after, through_states = _state_gradients_after_chunks(
    state_gradient, _transposed(query) @ decaying, _decay_of_states(decays, groups, width), before,
    sum_of_product,
  )
  scores, scores_gradient = _head_scores(query, key, decays), y_gradient @ value.mT
  weighted = _group_heads(scores_gradient * decays.between, groups)
  # One head after the other, because XLA's fusion of the product with a reduction over the heads
  # takes ten times as long on a CPU.
  products_gradient = sum(weighted[:, :, :, head] for head in range(heads // groups))
  until_end = _heads_side_by_side(decays.until_end * value, groups)
  query_gradient = products_gradient @ key + decaying @ before.mT
  key_gradient = _transposed(products_gradient) @ query + until_end @ after.mT
  from_states = decays.since_start * _heads_apart(query @ before, heads)
  from_later = decays.until_end * _heads_apart(key @ after, heads)
  value_gradient = _transposed(scores) @ y_gradient + from_later
  log_decay_gradient = through_states[..., None] + _sum_over_decayed_paths(
    scores_gradient * scores, sum_of_products(y_gradient, from_states)[..., 0],
    sum_of_products(value, from_later)[..., 0],
  )
  return state_gradient, (query_gradient, key_gradient, value_gradient, log_decay_gradient)


def _sum_over_decayed_paths(between, since_start, until_end):
  """Sums, for each token, the terms of the loss gradient that contain its decay as a factor.

  Args:
    between: the terms of pairs of tokens j and i [.., C, C], which decay after j up to i.
    since_start: the terms of tokens i [.., C], which decay from the start of the chunk up to i.
    until_end: the terms of tokens j [.., C], which decay after j up to the end of the chunk.

  Returns:
    The sums [.., C], the gradients of the log decays.

  """
  size = between.shape[-1]
  between = between.reshape(*between.shape[:-2], -1)
  terms_and_masks = (
    (between, _tokens_between(size).T), (since_start, jnp.tri(size)),
    (until_end, jnp.tri(size, k=-1).T),
  )
  return sum(jnp.matmul(terms, mask, precision='highest') for terms, mask in terms_and_masks)


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


def channel_decays(log_decay: jax.Array) -> ChannelDecays:
  """Computes the decays within chunks from log decays [n, B, H, C, K]."""
  decaying_tokens, _ = _decay_masks_and_score_masks_by_block_size(log_decay.shape[-2])
  decay = jnp.exp(
    jnp.einsum('lij,...jk->...lik', decaying_tokens, log_decay, precision='highest')
  )
  return ChannelDecays(decay[..., :-2, :, :], decay[..., -2, :, :], decay[..., -1, :, :])


def _channel_scores(query, key, decays):
  """Returns the scores of earlier tokens, and queries and keys decayed to the splits.

  The scores are [.., C, C], without the score of a token with itself, and the queries and keys
  [.., log2(C), C, K]. Each of the log2(C) block sizes takes a single product of whole chunks.
  """
  _, separated_pairs = _decay_masks_and_score_masks_by_block_size(query.shape[-2])
  query_at_split, key_at_split = (x[..., None, :, :] * decays.to_split for x in (query, key))
  products = query_at_split @ key_at_split.mT
  scores = sum(
    (jnp.where(pairs, products[..., level, :, :], 0.0)
     for level, pairs in enumerate(separated_pairs)),
    jnp.zeros((*query.shape[:-1], query.shape[-2])),
  )
  return scores, query_at_split, key_at_split


def outputs_with_channel_decays(
  state: jax.Array, query: jax.Array, key: jax.Array, value: jax.Array, decays: ChannelDecays
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  """Computes the outputs of a block like `outputs_with_head_decays`, for a decay per channel.

  Args:
    state: the state before the block [B, H, K, V].
    query: q, [n, B, H, C, K].
    key: k, [n, B, H, C, K].
    value: v, [n, B, H, C, V].
    decays: the decays of `channel_decays`.

  Returns:
    The state after the block, and the outputs y [n, B, H, C, V] with the states before the chunks
    [n, B, H, K, V].

  """
  scores, _, _ = _channel_scores(query, key, decays)
  updates = _transposed(key * decays.until_end) @ value
  state, before = _states_before_chunks(state, updates, decays.since_start[..., -1, :, None])
  own = sum_of_products(query, key) * value
  return state, (scores @ value + own + (query * decays.since_start) @ before, before)


def gradients_with_channel_decays(state_gradient, query, key, value, decays, before, y_gradient):
  """Computes the gradients of a block like `gradients_with_head_decays`, for a decay per channel.

  Args:
    state_gradient: the gradient of the state after the block [B, H, K, V].
    query: as for `outputs_with_channel_decays`, like `key`, `value` and `decays`.
    key: see `query`.
    value: see `query`.
    decays: see `query`.
    before: the states before the chunks [n, B, H, K, V].
    y_gradient: the gradient of the outputs [n, B, H, C, V].

  Returns:
    The gradient of the state before the block, and the gradients of the query, the key, the value
    and the log decays [n, B, H, C, K].

  """
  to_split, since_start, until_end = decays
  decaying_tokens, pairs = _decay_masks_and_score_masks_by_block_size(query.shape[-2])
  scores, query_at_split, key_at_split = _channel_scores(query, key, decays)
  query_since_start, key_until_end = query * since_start, key * until_end
  state_gradient, after, through_states = _state_gradients_after_chunks(
    state_gradient, _transposed(query_since_start) @ y_gradient, since_start[..., -1, :, None],
    before, lambda product: product.sum(-1),
  )

  def through_splits(scores_gradient, pairs, factor):  # [.., log2(C), C, K]
    return jnp.where(pairs, scores_gradient[..., None, :, :], 0.0) @ factor

  def sum_of_levels(x):
    return sum(x[..., level, :, :] for level in range(len(pairs)))

  query_through_splits = through_splits(y_gradient @ value.mT, pairs, key_at_split)
  key_through_splits = through_splits(value @ y_gradient.mT, pairs.mT, query_at_split)
  query_through_states, key_through_states = y_gradient @ before.mT, value @ after.mT
  own_score = sum_of_products(query, key)
  own_score_gradient = sum_of_products(value, y_gradient)
  query_gradient = (
    sum_of_levels(query_through_splits * to_split) + own_score_gradient * key
    + query_through_states * since_start
  )
  key_gradient = (
    sum_of_levels(key_through_splits * to_split) + own_score_gradient * query
    + key_through_states * until_end
  )
  value_gradient = _transposed(scores) @ y_gradient + own_score * y_gradient
  value_gradient += key_until_end @ after

  splits = query_at_split * query_through_splits + key_at_split * key_through_splits
  states = query_since_start * query_through_states, key_until_end * key_through_states
  exponents = jnp.concatenate([splits, *(x[..., None, :, :] for x in states)], -3)
  log_decay_gradient = through_states[..., None, :] + jnp.einsum(
    'lij,...lik->...jk', decaying_tokens, exponents, precision='highest'
  )
  return state_gradient, (query_gradient, key_gradient, value_gradient, log_decay_gradient)
