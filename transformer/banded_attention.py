"""Exact attention to a window in O(n w) work and one step: all blocks meet their bands at once.

Restricted self-attention as Vaswani et al. 2017 count it (section 4, Table 1): O(r n d) operations,
O(1) of them in sequence. The queries are cut into blocks of C <= w tokens. Those of a block look at
no key but its own and the w before it, a band of w + C keys, and no block waits for another:

  y_i = softmax(q_i [k_before, k_i]^T / sqrt(K)) [v_before, v_i]      for all blocks i

so that the sliding window of Beltagy et al. 2020 (section 3) takes memory for n (w + C) scores.
Every block stands to its band as any other does: one table of distances serves them all.
"""

import jax
import jax.numpy as jnp

from transformer.blocked_attention import split
from transformer.dot_product import FLOOR, AttentionMask, facing, mixture, naive, scores, strips
from transformer.positions import Relative


def banded(
  query, key, value, attention_mask: AttentionMask, relative: Relative, soft_cap=0.0, block=128
):
  """As `dot_product.naive`, to rounding, in blocks of the window's size or a smaller one.

  Raises a ValueError where there is no window.
  """
  *heads, length, _ = query.shape
  offset, window, valid, causal = attention_mask
  if not (window and causal):
    raise ValueError('no banded attention here: it needs a window')
  block = min(block, window)
  if length <= block:  # one block: there is nothing to save
    return naive(query, key, value, attention_mask, relative, soft_cap)
  valid = jnp.ones((1, key.shape[3]), bool) if valid is None else valid
  near = facing(strips(relative, block, window + block), window, block, window + block)
  queries = split(query, 3, block)
  bands = (band(x, offset, window, block, len(queries)) for x in (key, value, valid))

  def meet(query, key, value, valid):
    score = AttentionMask(window, window, valid).hide(scores(query, key, near, soft_cap))
    top = jnp.maximum(jax.lax.stop_gradient(score.max(-1, keepdims=True)), FLOOR)
    weight = jnp.exp(score - top)
    total = weight.sum(-1, keepdims=True)  # 1 or more; 0 where nothing is seen
    # K numbers are divided, not w + C: what is done to every score is what takes time here.
    return mixture(weight, value, near) / jnp.maximum(total, 0.5)

  y = jnp.moveaxis(jax.vmap(meet)(queries, *bands), 0, 3)
  return y.reshape(*heads, -1, y.shape[-1])[..., :length, :].astype(value.dtype)


def band(x, offset, window, block, count):
  """The w + C entries of the last axis that each of `count` blocks meets: [count, ..., w + C]."""
  before = -(-window // block)  # so many blocks hold a window
  room = (before + count) * block
  x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(before * block, room)])
  blocks = split(jax.lax.dynamic_slice_in_dim(x, offset, room, -1), x.ndim - 1, block)
  met = jnp.concatenate([blocks[i : i + count] for i in range(before + 1)], -1)
  return met[..., before * block - window :]
