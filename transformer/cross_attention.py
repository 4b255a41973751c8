"""Attention to a source: every token of the target looks at every token that an encoder read.

  y_t = Attention(W_Q x_t, W_K memory, W_V memory)        (Vaswani et al. 2017, section 3.2.3)

To a decoder it is a layer like any other, whose state is the source: keys and values, projected
once by the layer's `bridge` and then only read. So whatever streams, generates and searches through
states does so with a source in them.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer.attention import FORMS, attend, sow_weights
from transformer.dot_product import AttentionMask
from transformer.layer import SequenceLayer, masked
from transformer.options import at_least, one_of, suits


class ProjectedSource(NamedTuple):
  """A source of S tokens, as one layer looks at it."""

  key: jax.Array  # [B, H, K, S]
  value: jax.Array  # [B, H, V, S]
  valid: jax.Array  # [B, S]


class ProjectSource(nn.Module):
  """Keys and values of what an encoder read."""

  num_heads: int
  key_width: int = 0  # K; 0: the width shared by the heads
  value_width: int = 0  # V
  use_bias: bool = False

  @nn.compact
  def __call__(self, memory, mask=None) -> ProjectedSource:  # [B, S, D], [B, S]
    share = memory.shape[2] // self.num_heads

    def project(channels, name):
      heads = (self.num_heads, channels or share)
      options = {'use_bias': self.use_bias, 'dtype': memory.dtype, 'name': name}
      return nn.DenseGeneral(heads, **options)(masked(memory, mask)).transpose(0, 2, 3, 1)

    valid = jnp.ones(memory.shape[:2], bool) if mask is None else mask
    key, value = project(self.key_width, 'key'), project(self.value_width, 'value')
    return ProjectedSource(key, value, valid)


class CrossAttention(SequenceLayer):
  """Multi-head attention to the source that is its state; without one it answers 0."""

  num_heads: int = 4
  key_width: int = 0  # K, of each head's queries and keys; 0: the model's width shared by the heads
  value_width: int = 0  # V, of its values; 0: the same
  use_bias: bool = False
  form: str = 'auto'

  receptive_field: ClassVar[int] = 1

  def __post_init__(self):
    super().__post_init__()
    at_least(self, 1, 'num_heads')
    at_least(self, 0, 'key_width', 'value_width')
    one_of(self, 'form', FORMS)

  @property
  def width_multiple(self):
    """Heads of equal width."""
    return self.num_heads

  @property
  def source_projection(self):
    """The projections of keys and values."""
    widths = self.key_width, self.value_width
    return ProjectSource(self.num_heads, *widths, self.use_bias, parent=None)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """A source that nobody has read."""
    suits(self, width)
    share = width // self.num_heads
    key, value = (
      jnp.zeros((batch_size, self.num_heads, channels or share, capacity), dtype)
      for channels in (self.key_width, self.value_width)
    )
    return ProjectedSource(key, value, jnp.zeros((batch_size, capacity), bool))

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    (batch_size, _, width), x = x.shape, masked(x, mask)
    suits(self, width)
    memory = self.initial_state(batch_size, 1, width, x.dtype) if state is None else state
    heads = (self.num_heads, self.key_width or width // self.num_heads)
    options = {'use_bias': self.use_bias, 'dtype': x.dtype}
    query = nn.DenseGeneral(heads, name='query', **options)(x).swapaxes(1, 2)[:, :, None]
    key, value = memory.key.astype(x.dtype), memory.value.astype(x.dtype)
    attention_mask = AttentionMask(valid=memory.valid, causal=False)
    sow_weights(self, query, key, attention_mask)
    y = attend(query, key, value, attention_mask, form=self.form)[:, :, 0]
    return nn.DenseGeneral(width, (1, 3), name='output', **options)(y), memory
