"""Exact attention in blocks, whose memory is linear in the sequence length.

For each pair (i, j) of a block of queries and a block of keys visible to it

  top'   = max(top_i, max_s score)              total' = total_i e^(top_i - top') + sum_s weight
  weight = e^(score - top')                     y'     = y_i e^(top_i - top') + weight v_j

so that at the end y_i / total_i is the softmax average (Milakov and Gimelshein 2018; Rabe and
Staats 2021). The forward pass stores L = top + log total, from which the backward pass recomputes
the weights of each pair once (Dao et al. 2022, equations of its appendix B):

  p = e^(score - L)     dv_j += p^T dy_i     dscore = p (dy_i v_j^T - sum_K dy_i y_i)

Pairs of blocks that the mask excludes completely are omitted, so that with a window the work is
linear in the length, too. One compiled loop over the pairs updates the sums in place.
"""

import functools

import jax
import jax.numpy as jnp

from transformer.dot_product import (
  MIN_ROW_MAXIMUM,
  TINY,
  AttentionMask,
  attention_scores,
  slice_position_terms,
  sort_position_terms_by_decreasing_distance,
  weighted_sum_of_values,
)
from transformer.positions import RelativePositionTerms


def blocked_attention(
  query, key, value, attention_mask: AttentionMask, relative_position_terms: RelativePositionTerms,
  soft_cap=0.0, block_size=128,
):
  """Computes the result of `dense_attention`, up to rounding errors, with linear memory.

  Args:
    query: [B, H, R, T, K].
    key: [B, H, K, S].
    value: [B, H, V, S].
    attention_mask: the keys that each query may attend to.
    relative_position_terms: terms of the scores, keys and values that depend on the distance.
    soft_cap: the bound c of the scores; 0 for no bound.
    block_size: the number of queries, and of keys, in a block.

  Returns:
    [B, H, R, T, V] in the dtype of the values.

  Examples:
    Equal keys give each query the mean of the values up to its position.

    >>> query, key = jnp.ones((1, 1, 1, 4, 2)), jnp.ones((1, 1, 2, 4))
    >>> value = jnp.arange(4.0).reshape(1, 1, 1, 4)
    >>> no_terms = RelativePositionTerms()
    >>> y = blocked_attention(query, key, value, AttentionMask(), no_terms, block_size=2)
    >>> y.shape, [round(number, 3) for number in y.ravel().tolist()]
    ((1, 1, 1, 4, 1), [0.0, 0.5, 1.0, 1.5])

  """
  *heads, length, _ = query.shape
  query_offset, window, valid_keys, causal = attention_mask
  block_size = min(block_size, length)
  if not causal and valid_keys is None and key.shape[3] % block_size:
    # The last block of keys is padded to the block size, and a mask excludes this padding.
    valid_keys = jnp.ones((key.shape[0], key.shape[3]), bool)
  query, key, value, valid_keys = (
    None if x is None else split_into_blocks(x, axis, block_size)
    for x, axis in ((query, 3), (key, 3), (value, 3), (valid_keys, 1))
  )
  pairs = tuple(visible_block_pairs(len(query), len(key), block_size, query_offset, window, causal))
  padded_relative_position_terms = sort_position_terms_by_decreasing_distance(
    relative_position_terms, block_size, block_size)
  settings = pairs, window, causal, soft_cap
  y = _attend_block_pairs(
    query, key, value, padded_relative_position_terms, valid_keys, query_offset, settings)
  return jnp.moveaxis(y, 0, 3).reshape(*heads, -1, y.shape[-1])[..., :length, :]


def split_into_blocks(x, axis, block_size):
  """Splits an axis of an array into blocks, whose index becomes the first axis.

  Args:
    x: an array [..., N, ...].
    axis: the index of the axis to split.
    block_size: C, the length of a block.

  Returns:
    [ceil(N / C), ..., C, ...], where zeros complete the last block.

  """
  x = jnp.pad(x, [(0, -x.shape[axis] % block_size if i == axis else 0) for i in range(x.ndim)])
  x = x.reshape(*x.shape[:axis], -1, block_size, *x.shape[axis + 1 :])
  return jnp.moveaxis(x, axis, 0)


def visible_block_pairs(
  num_query_blocks, num_key_blocks, block_size, query_offset, window, causal=True
):
  """Yields the pairs of a query block and a key block that the attention mask does not exclude.

  Args:
    num_query_blocks: the number of query blocks.
    num_key_blocks: the number of key blocks.
    block_size: the number of queries, and of keys, in a block.
    query_offset: the position of the first query among the keys. An array, whose value is known
      only at run time, excludes no pair.
    window: the number of latest keys that a query may attend to; 0 for no limit.
    causal: whether later keys are excluded.

  Yields:
    Pairs (i, j) of the index of a query block and the index of a key block.

  """
  for i in range(num_query_blocks):
    for j in range(num_key_blocks):
      if not causal or not isinstance(query_offset, int):
        yield i, j
      else:
        distance = query_offset + (i - j) * block_size  # between the first query and the first key
        any_causal = distance + block_size > 0
        if any_causal and not (window and distance - block_size + 1 >= window):
          yield i, j


def _select_block(blocks, index):
  """Selects the block at `index` from each array [n, ...] of a pytree, where n counts blocks."""
  return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, 0, False), blocks)


def _replace_block(blocks, new_block, index):
  """Replaces the block at `index` by `new_block` in a pytree of arrays that each stack n blocks."""
  return jax.tree.map(
    lambda x, new: jax.lax.dynamic_update_index_in_dim(x, new, index, 0), blocks, new_block)


def _scan_block_pairs(pairs, step, carry):
  """Applies step(carry, i, j) to all pairs of blocks (i, j) and returns the final carry."""
  columns = tuple(jnp.array(column) for column in zip(*pairs, strict=True))
  return jax.lax.scan(lambda carry, pair: (step(carry, *pair), None), carry, columns)[0]


def _blocked_forward(
  query, key, value, padded_relative_position_terms, valid_keys, query_offset, settings
):
  """Returns the outputs of all query blocks, and the arrays that the backward pass requires."""
  pairs, window, causal, soft_cap = settings
  block_size = query.shape[4]

  def update_softmax_sums(carry, i, j):
    distance = query_offset + (i - j) * block_size
    tables = slice_position_terms(padded_relative_position_terms, distance, block_size, block_size)
    attention_mask = AttentionMask(distance, window, _select_block(valid_keys, j), causal)
    score = attention_mask.mask_scores(
      attention_scores(_select_block(query, i), _select_block(key, j), tables, soft_cap))
    y, top, total = _select_block(carry, i)
    new_top = jnp.maximum(top, score.max(-1, keepdims=True))
    weight, decay = jnp.exp(score - new_top), jnp.exp(top - new_top)
    y = y * decay + weighted_sum_of_values(weight, _select_block(value, j), tables)
    total = total * decay + weight.sum(-1, keepdims=True)
    return _replace_block(carry, (y, new_top, total), i)

  zeros = jnp.zeros((*query.shape[:-1], 1))
  carry = jnp.zeros((*query.shape[:-1], value.shape[3])), zeros + MIN_ROW_MAXIMUM, zeros
  y, top, total = _scan_block_pairs(pairs, update_softmax_sums, carry)
  total = jnp.maximum(total, TINY)
  y = (y / total).astype(value.dtype)
  log_total = top + jnp.log(total)
  inputs = query, key, value, padded_relative_position_terms, valid_keys, query_offset
  return y, (*inputs, y, log_total)


def _blocked_backward(settings, residuals, dy):
  """Computes loss gradients with respect to queries, keys, values and relative-position terms.

  All sums are float32.
  """
  *inputs, y, log_total = residuals
  query, key, value, padded_relative_position_terms, valid_keys, query_offset = inputs
  pairs, window, causal, soft_cap = settings
  block_size = query.shape[4]
  dy = dy.astype(jnp.float32)
  dy_dot_y = jnp.sum(dy * y.astype(jnp.float32), -1, keepdims=True)

  def add_gradients_of_block_pair(carry, i, j):
    distance = query_offset + (i - j) * block_size
    attention_mask = AttentionMask(distance, window, _select_block(valid_keys, j), causal)
    tables, slice_vjp = jax.vjp(
      lambda t: slice_position_terms(t, distance, block_size, block_size),
      padded_relative_position_terms,
    )
    score, score_vjp = jax.vjp(
      lambda *a: attention_scores(*a, soft_cap),
      _select_block(query, i), _select_block(key, j), tables,
    )
    weight = jnp.exp(attention_mask.mask_scores(score) - _select_block(log_total, i))
    _, value_vjp = jax.vjp(weighted_sum_of_values, weight, _select_block(value, j), tables)
    dweight, dvalue, dtables = value_vjp(_select_block(dy, i))
    dscore = weight * (dweight - _select_block(dy_dot_y, i))
    dquery, dkey, dtables_of_score = score_vjp(dscore)
    (dpadded,) = slice_vjp(jax.tree.map(jnp.add, dtables, dtables_of_score))
    *sums, table_sums = carry
    terms = zip(sums, (dquery, dkey, dvalue), (i, j, j), strict=True)
    sums = (_replace_block(x, _select_block(x, index) + new, index) for x, new, index in terms)
    return *sums, jax.tree.map(jnp.add, table_sums, dpadded)

  operands = query, key, value, padded_relative_position_terms
  zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), operands)
  sums = _scan_block_pairs(pairs, add_gradients_of_block_pair, zeros)
  return *jax.tree.map(lambda x, like: x.astype(like.dtype), sums, operands), None, None


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def _attend_block_pairs(
  query, key, value, padded_relative_position_terms, valid_keys, query_offset, settings
):
  """Computes attention from the listed pairs of query and key blocks, with a custom gradient.

  Queries have the shape [n, B, H, R, t, K], for n blocks of t queries. Keys and values have the
  shape [m, B, H, K or V, s], for m blocks of s keys.
  """
  return _blocked_forward(
    query, key, value, padded_relative_position_terms, valid_keys, query_offset, settings)[0]


_attend_block_pairs.defvjp(_blocked_forward, _blocked_backward)
