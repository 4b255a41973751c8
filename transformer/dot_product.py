"""Dot-product attention from a block of queries to a block of keys and values.

  score_ts = c tanh(q_t (k_s + a_{t-s}) / (c sqrt(K))) + b_{t-s}
  y_t      = sum_s softmax_s(score_ts) (v_s + w_{t-s}),  over the keys s that the mask allows for t

Without the terms a, b, c and w this is equation 1 of Vaswani et al. 2017. The bias b is that of
ALiBi or T5, a and w are the relative position vectors of Shaw et al. 2018 (equations 3 and 4), and
c is the soft cap of Gemma 2. Heads may share keys and values (Shazeer 2019; Ainslie et al. 2023),
in which case each key head has R query heads.

The relative terms are tables with a row for each distance. Products of queries with all distances
become scores of keys by the shift from relative to absolute indices of Huang et al. 2018, which
they call skewing.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from transformer import platform
from transformer.positions import RelativeTables

MASKED_SCORE = float(jnp.finfo(jnp.float32).min)  # the score of a key that the mask excludes
# Lower bound of the maximum score, so that the softmax weight of a masked key is exactly 0.
MIN_ROW_MAXIMUM = MASKED_SCORE / 2
TINY = float(jnp.finfo(jnp.float32).tiny)


class AttentionMask(NamedTuple):
  """A mask that is defined by causality, a window and the positions of padding."""

  offset: int | jax.Array = 0  # the position of the first query among the keys
  window: int = 0  # the number of latest keys, the query's position included; 0: no limit
  valid: jax.Array | None = None  # [B, S] false at padding; None: all keys are valid
  causal: bool = True  # False: later keys are included too, the offset and window are unused

  def mask_scores(self, score: jax.Array) -> jax.Array:
    """Returns attention scores [B, H, R, T, S] with MASKED_SCORE at all excluded keys."""
    if not self.causal:
      visible = self.valid
      if visible is None:
        return score
      return jnp.where(visible[:, None, None, None], score, MASKED_SCORE)
    num_queries, num_keys = score.shape[-2:]
    distance = self.offset + jnp.arange(num_queries)[:, None] - jnp.arange(num_keys)[None]
    visible = distance >= 0 if not self.window else (distance >= 0) & (distance < self.window)
    visible = visible[None, None, None]
    if self.valid is not None:
      visible &= self.valid[:, None, None, None]
    return jnp.where(visible, score, MASKED_SCORE)


def shift_distances_to_key_positions(rows: jax.Array, num_keys: int) -> jax.Array:
  """Shifts each query's row of terms so that its columns are keys instead of distances.

  This is the skewing of Huang et al. 2018. It maps rows [..., T, T + S] to [..., T, S] for
  S = `num_keys`. Entry (t, s) of the result is entry (t, T - 1 - t + s) of the input. Each
  row is shifted by one column relative to the next row, and a reshape of the flattened rows shifts
  all of them together.
  """
  num_queries, width = rows.shape[-2:]
  flat = rows.reshape(*rows.shape[:-2], num_queries * width)[..., num_queries - 1 :]
  flat = flat[..., : num_queries * (width - 1)]
  return flat.reshape(*rows.shape[:-1], width - 1)[..., :num_keys]


def shift_key_positions_to_distances(weight: jax.Array) -> jax.Array:
  """Applies the transpose of the linear map `shift_distances_to_key_positions`.

  Maps weights [..., T, S] to [..., T, T + S].
  """
  num_queries, num_keys = weight.shape[-2:]
  shape = (*weight.shape[:-1], num_queries + num_keys)
  shift = functools.partial(shift_distances_to_key_positions, num_keys=num_keys)
  return jax.linear_transpose(shift, jax.ShapeDtypeStruct(shape, weight.dtype))(weight)[0]


def pad_and_reverse_tables(
  relative_tables: RelativeTables, num_queries: int, num_keys: int
) -> RelativeTables:
  """Pads tables of relative positions with zeros and sorts their rows by decreasing distance.

  Args:
    relative_tables: tables [N, ...] for the distances 0 .. N - 1.
    num_queries: T, the number of queries of a block.
    num_keys: S, the number of keys of a block.

  Returns:
    Tables [N + 2 (T + S), ...], from the largest to the smallest distance.

  """
  def pad_and_reverse(table):
    padding = ((num_queries + num_keys,) * 2,) + ((0, 0),) * (table.ndim - 1)
    return jnp.pad(table, padding)[::-1]

  return jax.tree.map(pad_and_reverse, relative_tables)


def slice_tables(
  padded_tables: RelativeTables, offset: jax.Array | int, num_queries: int, num_keys: int
) -> RelativeTables:
  """Selects the rows of tables of relative positions that a block of queries and keys requires.

  Args:
    padded_tables: the result of `pad_and_reverse_tables` for the same block sizes.
    offset: the position of the first query minus the position of the first key.
    num_queries: T, the number of queries in the block.
    num_keys: S, the number of keys in the block.

  Returns:
    Tables [T + S, ...] for the distances offset + T - 1 down to offset - S.

  """
  def select_table_rows(table):
    start = table.shape[0] - 2 * num_queries - num_keys - offset
    return jax.lax.dynamic_slice_in_dim(table, start, num_queries + num_keys)

  return jax.tree.map(select_table_rows, padded_tables)


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


def attention_scores(query, key, relative_tables: RelativeTables, soft_cap: float) -> jax.Array:
  """Computes the attention scores of all queries and keys of a block, without a mask.

  Args:
    query: [B, H, R, T, K].
    key: [B, H, K, S].
    relative_tables: tables [T + S, ...] from `slice_tables`.
    soft_cap: the bound c of the scores; 0 for no bound.

  Returns:
    Scores [B, H, R, T, S] in float32.

  """
  heads, shared, num_queries, width = query.shape[1:]
  num_keys = key.shape[3]
  query = query * width**-0.5
  # Merging query heads with queries avoids a transposition of the scores in the backward pass.
  merged = query.reshape(*query.shape[:2], shared * num_queries, width)
  score = einsum_in_float32('BHTK,BHKS->BHTS', merged, key).reshape(*query.shape[:4], num_keys)
  if relative_tables.key is not None:
    table = relative_tables.key.astype(query.dtype)
    rows = einsum_in_float32('BHRTK,NK->BHRTN', query, table)
    score += shift_distances_to_key_positions(rows, num_keys)
  if soft_cap:
    score = soft_cap * jnp.tanh(score / soft_cap)
  if relative_tables.score is not None:
    rows = relative_tables.score.T.reshape(heads, shared, 1, num_queries + num_keys)
    rows = jnp.broadcast_to(rows, (heads, shared, num_queries, num_queries + num_keys))
    score += shift_distances_to_key_positions(rows, num_keys)[None]
  return score


def weighted_sum_of_values(weight, value, relative_tables: RelativeTables) -> jax.Array:
  """Computes the sums of values, and of relative value vectors, weighted by attention weights.

  Args:
    weight: [B, H, R, T, S] attention weights.
    value: [B, H, V, S].
    relative_tables: tables [T + S, ...] from `slice_tables`.

  Returns:
    Weighted sums [B, H, R, T, V] in float32.

  """
  merged = weight.reshape(*weight.shape[:2], -1, weight.shape[-1])
  y = einsum_in_float32('BHTS,BHKS->BHTK', merged, value).reshape(*weight.shape[:4], -1)
  if relative_tables.value is not None:
    table = relative_tables.value.astype(value.dtype)
    y += einsum_in_float32('BHRTN,NK->BHRTK', shift_key_positions_to_distances(weight), table)
  return y


def attention_weights(
  query, key, attention_mask: AttentionMask, relative_tables: RelativeTables, soft_cap: float = 0.0
):
  """Computes attention weights, which are 0 for a query whose keys are all masked.

  Args:
    query: [B, H, R, T, K].
    key: [B, H, K, S].
    attention_mask: the keys that each query may attend to.
    relative_tables: tables [T + S, ...] from `slice_tables`.
    soft_cap: the bound c of the scores; 0 for no bound.

  Returns:
    Weights [B, H, R, T, S] in float32.

  """
  score = attention_mask.mask_scores(attention_scores(query, key, relative_tables, soft_cap))
  row_maximum = jnp.maximum(
    jax.lax.stop_gradient(score.max(-1, keepdims=True)), MIN_ROW_MAXIMUM)
  weight = jnp.exp(score - row_maximum)
  total = weight.sum(-1, keepdims=True)  # at least 1, or 0 where all keys are masked
  return weight / jnp.maximum(total, 0.5)  # the bound 0.5 keeps the gradient finite at a total of 0


def dense_attention(
  query, key, value, attention_mask: AttentionMask, relative_tables: RelativeTables,
  soft_cap: float = 0.0,
):
  """Computes attention from the full matrix of scores of all queries and keys.

  The output is 0 for a query whose keys are all masked.

  Args:
    query: [B, H, R, T, K].
    key: [B, H, K, S].
    value: [B, H, V, S], for any width V.
    attention_mask: the keys that each query may attend to.
    relative_tables: terms of the scores, keys and values that depend on the distance.
    soft_cap: the bound c of the scores; 0 for no bound.

  Returns:
    [B, H, R, T, V] in the dtype of the values, summed in float32.

  """
  num_queries, num_keys = query.shape[3], key.shape[3]
  padded_tables = pad_and_reverse_tables(relative_tables, num_queries, num_keys)
  relative_tables = slice_tables(padded_tables, attention_mask.offset, num_queries, num_keys)
  weight = attention_weights(query, key, attention_mask, relative_tables, soft_cap)
  return weighted_sum_of_values(weight, value, relative_tables).astype(value.dtype)
