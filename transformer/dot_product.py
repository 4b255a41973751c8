"""Dot-product attention from a block of queries to a block of keys and values.

  score_ts = c tanh(q_t (k_s + a_{t-s}) / (c sqrt(K))) + b_{t-s}
  y_t      = sum_s softmax_s(score_ts) (v_s + w_{t-s}),  over the keys s that the mask allows for t

Without the terms a, b, c and w this is equation 1 of Vaswani et al. 2017. The bias b is that of
ALiBi or T5, a and w are the relative position vectors of Shaw et al. 2018 (equations 3 and 4), and
c is the soft cap of Gemma 2. Heads may share keys and values (Shazeer 2019; Ainslie et al. 2023),
in which case each key head has R query heads.

The relative-position terms are tables with a row for each distance. Products of queries with all
distances become scores of keys by the shift from relative to absolute indices of Huang et al. 2018,
which they call skewing.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from transformer import platform
from transformer.positions import RelativePositionTerms

MASKED_SCORE = float(jnp.finfo(jnp.float32).min)  # the score of a key that the mask excludes
# Row maxima are clipped to at least this value, so that exp(score - maximum) is 0 at masked keys.
MIN_ROW_MAXIMUM = MASKED_SCORE / 2
TINY = float(jnp.finfo(jnp.float32).tiny)


class AttentionMask(NamedTuple):
  """A mask that is defined by causality, a window and the positions of padding."""

  offset: int | jax.Array = 0  # the position of the first query among the keys
  window: int = 0  # the number of latest keys, the query's position included; 0: no limit
  valid: jax.Array | None = None  # [B, S] false at padding; None: all keys are valid
  causal: bool = True  # False: later keys are included too, the offset and window are unused

  def mask_scores(self, scores: jax.Array) -> jax.Array:
    """Returns attention scores [..., T, S] in which all excluded keys have MASKED_SCORE.

    The axes of the scores are [B, H, R, T, S], with R queries for each of H key heads.
    """
    if not self.causal:
      visible = self.valid
      if visible is None:
        return scores
      return jnp.where(visible[:, None, None, None], scores, MASKED_SCORE)
    num_queries, num_keys = scores.shape[-2:]
    distance = self.offset + jnp.arange(num_queries)[:, None] - jnp.arange(num_keys)[None]
    visible = distance >= 0 if not self.window else (distance >= 0) & (distance < self.window)
    visible = visible[None, None, None]
    if self.valid is not None:
      visible &= self.valid[:, None, None, None]
    return jnp.where(visible, scores, MASKED_SCORE)


def reindex_scores_by_key(scores_by_distance: jax.Array, num_keys: int) -> jax.Array:
  """Converts scores with a column for each distance to scores with a column for each key.

  This is the skewing of Huang et al. 2018. It maps scores [..., T, T + S] to [..., T, S] for
  S = `num_keys`. Entry (t, s) of the result is entry (t, T - 1 - t + s) of the input. Each
  row is shifted by one column relative to the next row, and a reshape of the flattened rows shifts
  all of them together.
  """
  *batch_axes, num_queries, width = scores_by_distance.shape
  flat = scores_by_distance.reshape(*batch_axes, num_queries * width)[..., num_queries - 1 :]
  flat = flat[..., : num_queries * (width - 1)]
  return flat.reshape(*batch_axes, num_queries, width - 1)[..., :num_keys]


def reindex_weights_by_distance(weights_by_key: jax.Array) -> jax.Array:
  """Converts weights with a column for each key to weights with a column for each distance.

  The transpose of the linear map `reindex_scores_by_key` converts weights [..., T, S] to weights
  [..., T, T + S].
  """
  num_queries, num_keys = weights_by_key.shape[-2:]
  by_distance = jax.ShapeDtypeStruct(
    (*weights_by_key.shape[:-1], num_queries + num_keys), weights_by_key.dtype)
  reindex = functools.partial(reindex_scores_by_key, num_keys=num_keys)
  return jax.linear_transpose(reindex, by_distance)(weights_by_key)[0]


def sort_position_terms_by_decreasing_distance(
  relative_position_terms: RelativePositionTerms, num_queries: int, num_keys: int
) -> RelativePositionTerms:
  """Pads tables of relative-position terms with zeros and sorts the rows by decreasing distance.

  Args:
    relative_position_terms: tables [N, ...] for the distances 0 .. N - 1.
    num_queries: T, the number of queries of a block.
    num_keys: S, the number of keys of a block.

  Returns:
    Tables [N + 2 (T + S), ...], from the largest to the smallest distance.

  """
  def pad_and_reverse_first_axis(table):
    padding = ((num_queries + num_keys,) * 2,) + ((0, 0),) * (table.ndim - 1)
    return jnp.pad(table, padding)[::-1]

  return jax.tree.map(pad_and_reverse_first_axis, relative_position_terms)


def slice_position_terms(
  padded_relative_position_terms: RelativePositionTerms, query_offset: jax.Array | int,
  num_queries: int, num_keys: int,
) -> RelativePositionTerms:
  """Selects the relative-position terms for the distances in a block of queries and keys.

  Args:
    padded_relative_position_terms: the result of `sort_position_terms_by_decreasing_distance` for
      the same block sizes.
    query_offset: the position of the first query minus the position of the first key.
    num_queries: T, the number of queries in the block.
    num_keys: S, the number of keys in the block.

  Returns:
    Tables [T + S, ...] for the distances query_offset + T - 1 down to query_offset - S.

  """
  def slice_position_terms_along_distance_axis(position_terms):
    start = position_terms.shape[0] - 2 * num_queries - num_keys - query_offset
    return jax.lax.dynamic_slice_in_dim(position_terms, start, num_queries + num_keys)

  return jax.tree.map(slice_position_terms_along_distance_axis, padded_relative_position_terms)


def einsum_in_float32(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
  """Computes an einsum of two arrays with float32 accumulation and a float32 result.

  Args:
    equation: the einsum of two operands.
    x: the first operand, which is cast to the dtype of y.
    y: the second operand.

  Returns:
    The result in float32.

  """
  x = x.astype(y.dtype)
  # On CPUs, XLA computes bfloat16 products with float32 results slowly or not at all.
  if platform.current_platform() == 'cpu':
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
  return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)


def attention_scores(
  query, key, relative_position_terms: RelativePositionTerms, soft_cap: float
) -> jax.Array:
  """Computes the unmasked attention scores between a block of queries and a block of keys.

  Args:
    query: [B, H, R, T, K].
    key: [B, H, K, S].
    relative_position_terms: tables [T + S, ...] from `slice_position_terms`.
    soft_cap: the bound c of the scores; 0 for no bound.

  Returns:
    Scores [B, H, R, T, S] in float32.

  """
  heads, shared, num_queries, width = query.shape[1:]
  num_keys = key.shape[3]
  query = query * width**-0.5
  # Merging the axes of query heads and queries avoids a transposition in the backward pass.
  merged = query.reshape(*query.shape[:2], shared * num_queries, width)
  score = einsum_in_float32('BHTK,BHKS->BHTS', merged, key).reshape(*query.shape[:4], num_keys)
  if relative_position_terms.key is not None:
    table = relative_position_terms.key.astype(query.dtype)
    rows = einsum_in_float32('BHRTK,NK->BHRTN', query, table)
    score += reindex_scores_by_key(rows, num_keys)
  if soft_cap:
    score = soft_cap * jnp.tanh(score / soft_cap)
  if relative_position_terms.score is not None:
    rows = relative_position_terms.score.T.reshape(heads, shared, 1, num_queries + num_keys)
    rows = jnp.broadcast_to(rows, (heads, shared, num_queries, num_queries + num_keys))
    score += reindex_scores_by_key(rows, num_keys)[None]
  return score


def weighted_sum_of_values(
  weight, value, relative_position_terms: RelativePositionTerms
) -> jax.Array:
  """Computes the sums of values, and of relative value vectors, weighted by attention weights.

  Args:
    weight: [B, H, R, T, S] attention weights.
    value: [B, H, V, S].
    relative_position_terms: tables [T + S, ...] from `slice_position_terms`.

  Returns:
    Weighted sums [B, H, R, T, V] in float32.

  """
  merged = weight.reshape(*weight.shape[:2], -1, weight.shape[-1])
  y = einsum_in_float32('BHTS,BHKS->BHTK', merged, value).reshape(*weight.shape[:4], -1)
  if relative_position_terms.value is not None:
    table = relative_position_terms.value.astype(value.dtype)
    y += einsum_in_float32('BHRTN,NK->BHRTK', reindex_weights_by_distance(weight), table)
  return y


def attention_weights(
  query, key, attention_mask: AttentionMask, relative_position_terms: RelativePositionTerms,
  soft_cap: float = 0.0,
):
  """Computes attention weights, which are 0 for a query whose keys are all masked.

  Args:
    query: [B, H, R, T, K].
    key: [B, H, K, S].
    attention_mask: the keys that each query may attend to.
    relative_position_terms: tables [T + S, ...] from `slice_position_terms`.
    soft_cap: the bound c of the scores; 0 for no bound.

  Returns:
    Weights [B, H, R, T, S] in float32.

  """
  score = attention_scores(query, key, relative_position_terms, soft_cap)
  score = attention_mask.mask_scores(score)
  row_maximum = jnp.maximum(
    jax.lax.stop_gradient(score.max(-1, keepdims=True)), MIN_ROW_MAXIMUM)
  weight = jnp.exp(score - row_maximum)
  total = weight.sum(-1, keepdims=True)  # at least 1, or 0 where all keys are masked
  return weight / jnp.maximum(total, 0.5)  # the bound 0.5 keeps the gradient finite at a total of 0


def dense_attention(
  query, key, value, attention_mask: AttentionMask, relative_position_terms: RelativePositionTerms,
  soft_cap: float = 0.0,
):
  """Computes attention from the full matrix of scores of all queries and keys.

  The output is 0 for a query whose keys are all masked.

  Args:
    query: [B, H, R, T, K].
    key: [B, H, K, S].
    value: [B, H, V, S], for any width V.
    attention_mask: the keys that each query may attend to.
    relative_position_terms: terms of the scores, keys and values that depend on the distance.
    soft_cap: the bound c of the scores; 0 for no bound.

  Returns:
    [B, H, R, T, V] in the dtype of the values, summed in float32.

  """
  num_queries, num_keys = query.shape[3], key.shape[3]
  padded_relative_position_terms = sort_position_terms_by_decreasing_distance(
    relative_position_terms, num_queries, num_keys)
  terms = slice_position_terms(
    padded_relative_position_terms, attention_mask.offset, num_queries, num_keys)
  weight = attention_weights(query, key, attention_mask, terms, soft_cap)
  return weighted_sum_of_values(weight, value, terms).astype(value.dtype)
