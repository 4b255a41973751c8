"""Causal attention, against that of jax.nn and PyTorch's fused one."""

import functools

import jax

from experiments.speed import pytorch
from experiments.speed.contest import Contest, Rival, contest
from experiments.speed.contests.numbers import normal
from transformer.attention import attend
from transformer.dot_product import AttentionMask


def attention(seed: int, batch: int, length: int, heads: int, head_width: int) -> Contest:
  """Causal attention, from queries, keys and values to answers."""
  shape = (batch, heads, length, head_width)
  query, key, value = normal(seed, shape, shape, shape)

  def heads_first(query, key, value):  # [B, H, T, K]
    return query[:, :, 0], key.swapaxes(2, 3), value.swapaxes(2, 3)

  def time_first(query, key, value):  # [B, T, H, K]
    return tuple(x.swapaxes(1, 2) for x in heads_first(query, key, value))

  return contest(
    lambda query, key, value: attend(query, key, value, AttentionMask()),
    (query[:, :, None], key.swapaxes(2, 3), value.swapaxes(2, 3)),
    (0, 0, 0, 0),
    {
      'jax.nn.dot_product_attention': Rival(
        functools.partial(jax.nn.dot_product_attention, is_causal=True),
        time_first, lambda y: y[:, :, 0].swapaxes(1, 2),
      ),
      'torch fused attention': Rival(
        pytorch.attention, heads_first, lambda y: y[:, :, 0], pytorch.enter
      ),
    },
    work=2 * batch * heads * length**2 * head_width,  # two products, half of each is masked
  )
