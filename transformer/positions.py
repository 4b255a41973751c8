"""Where am I: what tells attention, which by itself sees a set, that its input is a sequence.

Absolute encodings are layers, x_t + p_t, which a model applies once to its embeddings:
  sinusoidal   p_t = [sin(t w_i), cos(t w_i)], w_i = 10000^(-2i/D)   (Vaswani et al. 2017, 3.5)
  learned      p_t = row t of a table                                (Gehring et al. 2017)
Relative encodings act where a query at t meets a key at s, inside each attention layer:
  rotary       turns both by their position: the product sees t - s  (Su et al. 2021)
  alibi        adds -m_h (t - s), slope m_h = 2^(-8h/H)              (Press et al. 2022)
  t5_bias      adds b_h[bucket(t - s)], buckets growing as logarithms (Raffel et al. 2020)
"""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer.layer import SequenceLayer


class Positions(nn.Module):
  """No positions, and the interface of those that there are: each overrides what it needs."""

  @property
  def prelude(self) -> SequenceLayer | None:
    """The layer that adds positions to the embeddings, for absolute encodings."""
    return None

  @property
  def head_multiple(self) -> int:
    """The head widths that this encoding can take are the multiples of this."""
    return 1

  def rotate(self, x: jax.Array, index: jax.Array) -> jax.Array:
    """Queries or keys x [B, T, H, K] standing at positions index [T]."""
    del index
    return x

  def bias(self, query_index: jax.Array, key_index: jax.Array, num_heads: int):
    """What is added to the scores [H, T, S] of queries and keys standing at these positions."""
    del query_index, key_index, num_heads
    return None


class AddPositions(SequenceLayer):
  """x_t + p_t; its state is the position of the next token."""

  receptive_field: ClassVar[int] = 1

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Position 0."""
    return jnp.zeros((), jnp.int32)

  def table(self, index: jax.Array, width: int) -> jax.Array:
    """The vectors p [T, D] of positions index [T]."""
    raise TypeError(f'{type(self).__name__} has no table of positions')

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):
    start = jnp.zeros((), jnp.int32) if state is None else state
    index = start + jnp.arange(x.shape[1])
    return x + self.table(index, x.shape[2]).astype(x.dtype)[None], start + x.shape[1]


class AddSinusoid(AddPositions):
  """p_t = [sin(t w_i), cos(t w_i)], w_i = base^(-2i/D)."""

  base: float = 10000.0

  def table(self, index, width):
    """Sines in the first half, cosines in the second; an odd width drops the last cosine."""
    half = (width + 1) // 2
    frequency = jnp.exp(-math.log(self.base) * jnp.arange(half) / half)
    angle = index[:, None].astype(jnp.float32) * frequency[None]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)[:, :width]


class AddLearned(AddPositions):
  """p_t = row t of a table of max_length rows; beyond it the answer is NaN, never a wrong row."""

  max_length: int = 2048

  def table(self, index, width):
    """Rows of the table."""
    rows = self.param('positions', nn.initializers.normal(0.02), (self.max_length, width))
    known = (index < self.max_length)[:, None]
    return jnp.where(known, rows[jnp.minimum(index, self.max_length - 1)], jnp.nan)


class Sinusoidal(Positions):
  """The paper's sines and cosines."""

  base: float = 10000.0

  @property
  def prelude(self):
    """Adds them."""
    return AddSinusoid(base=self.base, parent=None)


class Learned(Positions):
  """A trained vector for each of max_length positions."""

  max_length: int = 2048

  @property
  def prelude(self):
    """Adds them."""
    return AddLearned(max_length=self.max_length, parent=None)


class Rotary(Positions):
  """Turns each pair of channels (i, i + K/2) by t base^(-2i/K)."""

  base: float = 10000.0
  head_multiple: ClassVar[int] = 2

  def rotate(self, x, index):
    """The turn; angles are computed in float32, whatever x is."""
    half = x.shape[-1] // 2
    frequency = jnp.exp(-math.log(self.base) * jnp.arange(half) / half)
    angle = (index[:, None].astype(jnp.float32) * frequency[None])[None, :, None, :]
    cosine, sine = jnp.cos(angle).astype(x.dtype), jnp.sin(angle).astype(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate(
      [first * cosine - second * sine, second * cosine + first * sine], -1
    )


class ALiBi(Positions):
  """A penalty that grows with distance, at a slope of its own in each head."""

  def bias(self, query_index, key_index, num_heads):
    """-m_h |t - s|, m_h = 2^(-8h/H), h = 1..H."""
    slope = jnp.exp2(-8.0 * jnp.arange(1, num_heads + 1) / num_heads)
    distance = jnp.abs(query_index[:, None] - key_index[None, :]).astype(jnp.float32)
    return -slope[:, None, None] * distance[None]


class T5Bias(Positions):
  """A trained scalar for each head and bucket of distance (the causal half of T5's buckets)."""

  num_buckets: int = 32
  max_distance: int = 128

  @nn.compact
  def bias(self, query_index, key_index, num_heads):
    """Half of the buckets count exactly, the rest up to max_distance logarithmically."""
    exact = self.num_buckets // 2
    distance = jnp.maximum(query_index[:, None] - key_index[None, :], 0)
    ratio = jnp.log(jnp.maximum(distance, 1) / exact) / math.log(self.max_distance / exact)
    far = exact + (ratio * (self.num_buckets - exact)).astype(jnp.int32)
    bucket = jnp.where(distance < exact, distance, jnp.minimum(far, self.num_buckets - 1))
    table = self.param('bias', nn.initializers.normal(0.02), (num_heads, self.num_buckets))
    return table[:, bucket]


POSITIONS = {
  'none': Positions,
  'sinusoidal': Sinusoidal,
  'learned': Learned,
  'rotary': Rotary,
  'alibi': ALiBi,
  't5_bias': T5Bias,
}
