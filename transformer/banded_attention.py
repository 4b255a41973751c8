"""Exact attention within a window of w tokens, in O(n w) operations that run in parallel.

This is the restricted self-attention of Vaswani et al. 2017 (section 4, Table 1), with O(r n d)
operations in a sequential depth of O(1). The queries are cut into blocks of C <= w tokens. The
queries of a block attend to a band of w + C keys, which are the keys of the block itself and the w
keys before the block. No block depends on another block:

  y_i = softmax(q_i [k_before, k_i]^T / sqrt(K)) [v_before, v_i]      for all blocks i

so that the sliding window of Beltagy et al. 2020 (section 3) takes memory for n (w + C) scores.
The distances within a band are the same for all blocks, which therefore share the same relative
position terms.
"""

import jax
import jax.numpy as jnp

from transformer.blocked_attention import split_into_blocks
from transformer.dot_product import (
  MIN_ROW_MAXIMUM,
  AttentionMask,
  attention_scores,
  dense_attention,
  slice_position_terms,
  sort_position_terms_by_decreasing_distance,
  weighted_sum_of_values,
)
from transformer.positions import RelativePositionTerms


def banded_attention(
  query, key, value, attention_mask: AttentionMask, relative_position_terms: RelativePositionTerms,
  soft_cap=0.0, block_size=128,
):
  """Computes the result of `dense_attention`, up to rounding errors, for a causal window.

  Args:
    query: [B, H, R, T, K].
    key: [B, H, K, S].
    value: [B, H, V, S].
    attention_mask: the keys that each query may attend to, within a causal window.
    relative_position_terms: terms of the scores, keys and values that depend on the distance.
    soft_cap: the bound c of the scores; 0 for no bound.
    block_size: the maximum number of queries in a block, which is also at most the window.

  Returns:
    [B, H, R, T, V] in the dtype of the values.

  Raises:
    ValueError: there is no window, or the mask is not causal.

  Examples:
    Equal keys give each query the mean of the last two values.

    >>> query, key = jnp.ones((1, 1, 1, 4, 2)), jnp.ones((1, 1, 2, 4))
    >>> value = jnp.arange(4.0).reshape(1, 1, 1, 4)
    >>> y = banded_attention(query, key, value, AttentionMask(window=2), RelativePositionTerms())
    >>> y.shape, [round(number, 3) for number in y.ravel().tolist()]
    ((1, 1, 1, 4, 1), [0.0, 0.5, 1.5, 2.5])

  """
  *heads, length, _ = query.shape
  query_offset, window, valid, causal = attention_mask
  if not (window and causal):
    raise ValueError('banded attention requires a causal mask with a window')
  block_size = min(block_size, window)
  if length <= block_size:  # a single block, whose band is no shorter than the full matrix
    return dense_attention(query, key, value, attention_mask, relative_position_terms, soft_cap)
  valid = jnp.ones((1, key.shape[3]), bool) if valid is None else valid
  band_size = window + block_size
  padded_relative_position_terms = sort_position_terms_by_decreasing_distance(
    relative_position_terms, block_size, band_size)
  terms = slice_position_terms(padded_relative_position_terms, window, block_size, band_size)
  queries = split_into_blocks(query, 3, block_size)
  bands = (
    gather_bands(x, query_offset, window, block_size, len(queries)) for x in (key, value, valid))

  def attend_band(query, key, value, valid):
    score = AttentionMask(window, window, valid).mask_scores(
      attention_scores(query, key, terms, soft_cap))
    row_maximum = jnp.maximum(
      jax.lax.stop_gradient(score.max(-1, keepdims=True)), MIN_ROW_MAXIMUM)
    weight = jnp.exp(score - row_maximum)
    total = weight.sum(-1, keepdims=True)  # at least 1, or 0 where all keys are masked
    # Normalizing the outputs costs less than normalizing the more numerous softmax weights.
    return weighted_sum_of_values(weight, value, terms) / jnp.maximum(total, 0.5)

  y = jnp.moveaxis(jax.vmap(attend_band)(queries, *bands), 0, 3)
  return y.reshape(*heads, -1, y.shape[-1])[..., :length, :].astype(value.dtype)


def gather_bands(x, query_offset, window, block_size, num_blocks):
  """Gathers, for each block of queries, the band of keys or values that the block attends to.

  Args:
    x: [..., S] keys, values or their validity.
    query_offset: the position of the first query among the keys.
    window: w, the number of keys before a block that belong to its band.
    block_size: C, the number of queries in a block.
    num_blocks: n, the number of blocks.

  Returns:
    Bands [n, ..., w + C], with zeros beyond either end of x.

  """
  blocks_before = -(-window // block_size)  # the number of blocks that cover a window
  padded_length = (blocks_before + num_blocks) * block_size
  x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(blocks_before * block_size, padded_length)])
  x = jax.lax.dynamic_slice_in_dim(x, query_offset, padded_length, -1)
  blocks = split_into_blocks(x, x.ndim - 1, block_size)
  bands = jnp.concatenate([blocks[i : i + num_blocks] for i in range(blocks_before + 1)], -1)
  return bands[..., blocks_before * block_size - window :]
