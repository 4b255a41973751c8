"""Scaled dot-product attention: every token looks at every earlier one, in one step.

  Attention(Q, K, V) = softmax(Q K^T / sqrt(K)) V      (Vaswani et al. 2017, equation 1)

in H heads, each with its own projections. Its memory is what it has read: the keys and values of
all earlier tokens, which is why it forgets nothing and why its state grows with the length.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer.layer import SequenceLayer, masked
from transformer.positions import Positions, Rotary


class KeyValue(NamedTuple):
  """Attention's memory, with room for S tokens."""

  key: jax.Array  # [B, S, H, K]
  value: jax.Array  # [B, S, H, K]
  valid: jax.Array  # [B, S] whether a token was read here and was no padding
  index: jax.Array  # [] how many tokens were read

  def append(self, key: jax.Array, value: jax.Array, valid: jax.Array) -> 'KeyValue':
    """The memory after T more tokens: key and value [B, T, H, K], valid [B, T]."""
    def put(memory, new):
      start = (0, self.index) + (0,) * (memory.ndim - 2)
      return jax.lax.dynamic_update_slice(memory, new.astype(memory.dtype), start)

    return KeyValue(
      put(self.key, key), put(self.value, value), put(self.valid, valid), self.index + key.shape[1]
    )


def dot_product_attention(query, key, value, visible, bias=None):
  """softmax(query key^T / sqrt(K) + bias) value, the softmax in float32.

  Args:
    query: [B, T, H, K].
    key: [B, S, H, K].
    value: [B, S, H, K].
    visible: [B or 1, T, S] true where a query may look; a query that may look nowhere
      looks everywhere, so that its answer is finite.
    bias: [H, T, S] added to the scores, or None.

  Returns:
    [B, T, H, K].

  """
  query = query * query.shape[-1] ** -0.5
  score = jnp.einsum('BTHK,BSHK->BHTS', query, key, preferred_element_type=jnp.float32)
  if bias is not None:
    score += bias[None]
  score = jnp.where(visible[:, None], score, jnp.finfo(jnp.float32).min)
  weight = jax.nn.softmax(score).astype(value.dtype)
  return jnp.einsum('BHTS,BSHK->BTHK', weight, value)


class Attention(SequenceLayer):
  """Causal multi-head self-attention."""

  num_heads: int = 4
  positions: Positions = Rotary(parent=None)

  def __post_init__(self):
    super().__post_init__()
    if self.num_heads < 1:
      raise ValueError(f'attention has {self.num_heads} heads; it needs 1 or more')

  @property
  def prelude(self):
    """What the positions add to the embeddings, if they are absolute."""
    return self.positions.prelude

  @property
  def width_multiple(self):
    """Heads of equal width, each one that the positions can take."""
    return self.num_heads * self.positions.head_multiple

  def head_width(self, width: int) -> int:
    """K; a ValueError if the heads do not share the width equally."""
    if width % self.width_multiple:
      raise ValueError(
        f'a width of {width} does not suit attention with {self.num_heads} heads: '
        f'it takes multiples of {self.width_multiple}'
      )
    return width // self.num_heads

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Room for `capacity` keys and values."""
    shape = (batch_size, capacity, self.num_heads, self.head_width(width))
    return KeyValue(
      key=jnp.zeros(shape, dtype),
      value=jnp.zeros(shape, dtype),
      valid=jnp.zeros((batch_size, capacity), bool),
      index=jnp.zeros((), jnp.int32),
    )

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    length, width = x.shape[1:]
    x = masked(x, mask)
    heads = (self.num_heads, self.head_width(width))
    projected = nn.DenseGeneral((3, *heads), use_bias=False, dtype=x.dtype, name='projection')(x)
    query, key, value = (projected[:, :, i] for i in range(3))

    index = jnp.arange(length) if state is None else state.index + jnp.arange(length)
    query, key = self.positions.rotate(query, index), self.positions.rotate(key, index)
    valid = jnp.ones(x.shape[:2], bool) if mask is None else mask
    if state is None:
      state = KeyValue(key, value, valid, jnp.int32(length))
    else:
      state = state.append(key, value, valid)

    memory_index = jnp.arange(state.key.shape[1])
    visible = index[:, None] >= memory_index[None, :]  # [T, S]
    visible = visible[None] & state.valid[:, None, :]
    bias = self.positions.bias(index, memory_index, self.num_heads)
    y = dot_product_attention(
      query, state.key.astype(x.dtype), state.value.astype(x.dtype), visible, bias
    )
    # More tokens than there is room for: the answer is NaN, never silently wrong.
    y = jnp.where(state.index <= memory_index.size, y, jnp.nan)
    y = nn.DenseGeneral(width, (-2, -1), use_bias=False, dtype=x.dtype, name='output')(y)
    return y, state
