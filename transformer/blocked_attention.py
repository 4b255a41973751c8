"""Exact attention in memory linear in the length: block by block, no score is ever kept.

For each pair (i, j) of a block of queries and a block of keys that it may look at

  top'   = max(top_i, max_s score)              total' = total_i e^(top_i - top') + sum_s weight
  weight = e^(score - top')                     y'     = y_i e^(top_i - top') + weight v_j

so that at the end y_i / total_i is the softmax average (Milakov and Gimelshein 2018; Rabe and
Staats 2021). With L = top + log total kept, the gradient reads each pair once more (Dao et al.
2022, equations of its appendix B):

  p = e^(score - L)     dv_j += p^T dy_i     dscore = p (dy_i v_j^T - sum_K dy_i y_i)

Pairs that cannot meet are not in the list: with a window the work is linear in the length, too. One
compiled loop goes through the list; what it sums into is updated in place.
"""

import functools

import jax
import jax.numpy as jnp

from transformer.dot_product import FLOOR, TINY, AttentionMask, facing, mixture, scores, strips
from transformer.positions import Relative


def blocked(
  query, key, value, attention_mask: AttentionMask, relative: Relative, soft_cap=0.0, block=128
):
  """As `dot_product.naive`, to rounding, in blocks of so many queries and keys."""
  *heads, length, _ = query.shape
  offset, window, valid, causal = attention_mask
  block = min(block, length)
  if not causal and valid is None and key.shape[3] % block:  # what fills the last block up
    valid = jnp.ones((key.shape[0], key.shape[3]), bool)
  query, key, value, valid = (
    None if x is None else split(x, axis, block)
    for x, axis in ((query, 3), (key, 3), (value, 3), (valid, 1))
  )
  pairs = tuple(meeting(len(query), len(key), block, offset, window, causal))
  relative = strips(relative, block, block)
  settings = pairs, window, causal, soft_cap
  y = over_pairs(query, key, value, relative, valid, offset, settings)
  return jnp.moveaxis(y, 0, 3).reshape(*heads, -1, y.shape[-1])[..., :length, :]


def split(x, axis, block):
  """Blocks of an axis, the last one padded with zeros, as the leading axis."""
  x = jnp.pad(x, [(0, -x.shape[axis] % block if i == axis else 0) for i in range(x.ndim)])
  x = x.reshape(*x.shape[:axis], -1, block, *x.shape[axis + 1 :])
  return jnp.moveaxis(x, axis, 0)


def meeting(num_queries, num_keys, block, offset, window, causal=True):
  """The pairs of blocks that meet; any may if the offset is known only when the program runs."""
  for i in range(num_queries):
    for j in range(num_keys):
      if not causal or not isinstance(offset, int):
        yield i, j
      else:
        distance = offset + (i - j) * block  # between the first query and the first key
        before = distance + block > 0
        if before and not (window and distance - block + 1 >= window):
          yield i, j


def pick(blocks, i):
  """Block i of each array."""
  return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, 0, False), blocks)


def put(blocks, new, i):
  """The arrays with another block i."""
  return jax.tree.map(
    lambda x, block: jax.lax.dynamic_update_index_in_dim(x, block, i, 0), blocks, new
  )


def over_each(pairs, step, carry):
  """The carry after step(carry, i, j) for each of the pairs."""
  columns = tuple(jnp.array(column) for column in zip(*pairs, strict=True))
  return jax.lax.scan(lambda carry, pair: (step(carry, *pair), None), carry, columns)[0]


def forward(query, key, value, relative, valid, offset, settings):
  """Blocks of y, and what the gradient needs."""
  pairs, window, causal, soft_cap = settings
  block = query.shape[4]

  def step(carry, i, j):
    base = offset + (i - j) * block
    near = facing(relative, base, block, block)
    attention_mask = AttentionMask(base, window, pick(valid, j), causal)
    score = attention_mask.hide(scores(pick(query, i), pick(key, j), near, soft_cap))
    y, top, total = pick(carry, i)
    higher = jnp.maximum(top, score.max(-1, keepdims=True))
    weight, shrink = jnp.exp(score - higher), jnp.exp(top - higher)
    y = y * shrink + mixture(weight, pick(value, j), near)
    return put(carry, (y, higher, total * shrink + weight.sum(-1, keepdims=True)), i)

  nothing = jnp.zeros((*query.shape[:-1], 1))
  start = jnp.zeros((*query.shape[:-1], value.shape[3])), nothing + FLOOR, nothing
  y, top, total = over_each(pairs, step, start)
  total = jnp.maximum(total, TINY)
  y = (y / total).astype(value.dtype)
  return y, (query, key, value, relative, valid, offset, y, top + jnp.log(total))


def backward(settings, kept, dy):
  """The gradients for query, key, value and relative, summed in float32."""
  query, key, value, relative, valid, offset, y, log_total = kept
  pairs, window, causal, soft_cap = settings
  block = query.shape[4]
  dy = dy.astype(jnp.float32)
  inner = jnp.sum(dy * y.astype(jnp.float32), -1, keepdims=True)

  def step(carry, i, j):
    base = offset + (i - j) * block
    attention_mask = AttentionMask(base, window, pick(valid, j), causal)
    near, from_near = jax.vjp(lambda r: facing(r, base, block, block), relative)
    score, from_score = jax.vjp(
      lambda *a: scores(*a, soft_cap), pick(query, i), pick(key, j), near
    )
    weight = jnp.exp(attention_mask.hide(score) - pick(log_total, i))
    _, from_mixture = jax.vjp(mixture, weight, pick(value, j), near)
    dweight, dvalue, dnear = from_mixture(pick(dy, i))
    dquery, dkey, dnear_too = from_score(weight * (dweight - pick(inner, i)))
    (drelative,) = from_near(jax.tree.map(jnp.add, dnear, dnear_too))
    *sums, total = carry
    places = zip(sums, (dquery, dkey, dvalue), (i, j, j), strict=True)
    sums = (put(x, pick(x, at) + new, at) for x, new, at in places)
    return *sums, jax.tree.map(jnp.add, total, drelative)

  inputs = query, key, value, relative
  sums = over_each(pairs, step, jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), inputs))
  return *jax.tree.map(lambda x, like: x.astype(like.dtype), sums, inputs), None, None


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def over_pairs(query, key, value, relative, valid, offset, settings):
  """Blocks of queries [n, B, H, R, t, K] over blocks of keys [m, B, H, K, s], values alike."""
  return forward(query, key, value, relative, valid, offset, settings)[0]


over_pairs.defvjp(forward, backward)
