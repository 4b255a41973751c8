"""Dot-product attention of queries, keys and values that are given: the equations of one block.

  score_ts = c tanh(q_t (k_s + a_{t-s}) / (c sqrt(K))) + b_{t-s}
  y_t      = sum_s softmax_s(score_ts) (v_s + w_{t-s}),  over the keys s that t may look at

Vaswani et al. 2017 (equation 1) without what stands for distances: b is ALiBi's or T5's bias, a and
w are the vectors of Shaw et al. 2018 (equations 3 and 4), c is the soft cap of Gemma 2. Heads may
share keys and values (Shazeer 2019; Ainslie et al. 2023): R queries meet each key.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from transformer import platform
from transformer.positions import Relative

HIDDEN = float(jnp.finfo(jnp.float32).min)  # the score of a key that may not be looked at
FLOOR = HIDDEN / 2  # no maximum is below it, so that what is hidden weighs exactly nothing
TINY = float(jnp.finfo(jnp.float32).tiny)


class AttentionMask(NamedTuple):
  """Which keys a query may look at: those not after it, the latest `window`, no padding."""

  offset: int | jax.Array = 0  # where the first query stands among the keys
  window: int = 0  # 0: no limit
  valid: jax.Array | None = None  # [B, S]; None: every key is
  causal: bool = True  # False: those after it too, wherever it stands; there is no window then

  def hide(self, score: jax.Array) -> jax.Array:
    """Scores [B, H, R, T, S] with HIDDEN where a query may not look."""
    if not self.causal:
      seen = self.valid
      return score if seen is None else jnp.where(seen[:, None, None, None], score, HIDDEN)
    length, size = score.shape[-2:]
    distance = self.offset + jnp.arange(length)[:, None] - jnp.arange(size)[None]
    seen = distance >= 0 if not self.window else (distance >= 0) & (distance < self.window)
    seen = seen[None, None, None]
    if self.valid is not None:
      seen &= self.valid[:, None, None, None]
    return jnp.where(seen, score, HIDDEN)


def across(rows: jax.Array, size: int) -> jax.Array:
  """From distances to keys: [..., T, T + S] -> [..., T, S], entry (t, s) from (t, T - 1 - t + s).

  Each row is shifted by one against the next; laid end to end and cut anew, they all are at once.
  """
  length, width = rows.shape[-2:]
  flat = rows.reshape(*rows.shape[:-2], length * width)[..., length - 1 :]
  flat = flat[..., : length * (width - 1)]
  return flat.reshape(*rows.shape[:-1], width - 1)[..., :size]


def along(weight: jax.Array) -> jax.Array:
  """From keys to distances, the transpose of `across`: [..., T, S] -> [..., T, T + S]."""
  length, size = weight.shape[-2:]
  like = jax.ShapeDtypeStruct((*weight.shape[:-1], length + size), weight.dtype)
  return jax.linear_transpose(functools.partial(across, size=size), like)(weight)[0]


def strips(relative: Relative, length: int, size: int) -> Relative:
  """Tables [N, ...] by distance, backwards and with room for any block of T queries, S keys."""
  def strip(table):
    room = ((length + size,) * 2,) + ((0, 0),) * (table.ndim - 1)
    return jnp.pad(table, room)[::-1]

  return jax.tree.map(strip, relative)


def facing(relative: Relative, offset: jax.Array | int, length: int, size: int) -> Relative:
  """The T + S entries of `strips` between T queries, S keys, the first `offset` from the first."""
  def part(strip):
    start = strip.shape[0] - 2 * length - size - offset
    return jax.lax.dynamic_slice_in_dim(strip, start, length + size)

  return jax.tree.map(part, relative)


def product(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
  """An einsum of x in the precision of y, summed in float32."""
  x = x.astype(y.dtype)
  if platform.current() == 'cpu':  # where XLA has not had all mixed products, nor fast ones
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
  return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)


def scores(query, key, relative: Relative, soft_cap: float) -> jax.Array:
  """Queries [B, H, R, T, K] against keys [B, H, K, S], what is `facing`: [B, H, R, T, S]."""
  heads, shared, length, width = query.shape[1:]
  size = key.shape[3]
  query = query * width**-0.5
  # In one axis, lest XLA transpose whole scores when it forms the gradient of the keys.
  together = query.reshape(*query.shape[:2], shared * length, width)
  score = product('BHTK,BHKS->BHTS', together, key).reshape(*query.shape[:4], size)
  if relative.key is not None:
    table = relative.key.astype(query.dtype)
    score += across(product('BHRTK,NK->BHRTN', query, table), size)
  if soft_cap:
    score = soft_cap * jnp.tanh(score / soft_cap)
  if relative.score is not None:
    rows = relative.score.T.reshape(heads, shared, 1, length + size)
    rows = jnp.broadcast_to(rows, (heads, shared, length, length + size))
    score += across(rows, size)[None]
  return score


def mixture(weight, value, relative: Relative) -> jax.Array:
  """Values [B, H, K, S] weighted by [B, H, R, T, S], and what is `facing`: [B, H, R, T, K]."""
  together = weight.reshape(*weight.shape[:2], -1, weight.shape[-1])
  y = product('BHTS,BHKS->BHTK', together, value).reshape(*weight.shape[:4], -1)
  if relative.value is not None:
    table = relative.value.astype(value.dtype)
    y += product('BHRTN,NK->BHRTK', along(weight), table)
  return y


def weights(query, key, attention_mask: AttentionMask, relative: Relative, soft_cap: float = 0.0):
  """Where each query looks: a softmax over the keys [B, H, R, T, S], or 0 if it may look nowhere.

  Args:
    query: [B, H, R, T, K].
    key: [B, H, K, S].
    attention_mask: where each query may look.
    relative: what distances add, `facing`.
    soft_cap: c; 0: none.

  """
  score = attention_mask.hide(scores(query, key, relative, soft_cap))
  top = jnp.maximum(jax.lax.stop_gradient(score.max(-1, keepdims=True)), FLOOR)
  weight = jnp.exp(score - top)
  total = weight.sum(-1, keepdims=True)  # 1 or more; 0 where nothing is seen
  return weight / jnp.maximum(total, 0.5)  # of which the gradient is finite as well


def naive(
  query, key, value, attention_mask: AttentionMask, relative: Relative, soft_cap: float = 0.0
):
  """All scores at once. A query that may look nowhere answers 0.

  Args:
    query: [B, H, R, T, K].
    key: [B, H, K, S].
    value: [B, H, V, S], of any width V.
    attention_mask: where each query may look.
    relative: what distances add.
    soft_cap: c; 0: none.

  Returns:
    [B, H, R, T, V]; sums are taken in float32.

  """
  length, size = query.shape[3], key.shape[3]
  relative = facing(strips(relative, length, size), attention_mask.offset, length, size)
  weight = weights(query, key, attention_mask, relative, soft_cap)
  return mixture(weight, value, relative).astype(value.dtype)
