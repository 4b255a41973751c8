"""Cross-attention, in which every target token attends to every source token of an encoder.

  y_t = Attention(W_Q x_t, W_K memory, W_V memory)        (Vaswani et al. 2017, section 3.2.3)

In a decoder, cross-attention is a sequence layer whose state is the source. The layer's
`source_projection` maps the source to keys and values once, and the state then remains constant.
Streaming, generation and beam search, which pass states, therefore need no special treatment of a
source.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer.attention import FORMS, attend, sow_weights
from transformer.dense import DenseGeneral
from transformer.dot_product import AttentionMask
from transformer.layer import SequenceLayer, apply_mask
from transformer.options import check_width, require_one_of, require_option_values_at_least


class ProjectedSource(NamedTuple):
  """Keys and values of S source tokens, which are the state of a cross-attention layer."""

  key: jax.Array  # [B, H, K, S]
  value: jax.Array  # [B, H, V, S]
  valid: jax.Array  # [B, S]


class ProjectSource(nn.Module):
  """Projects encoder outputs to the keys and values of a cross-attention layer."""

  num_heads: int
  key_width: int = 0  # K; 0: D / num_heads
  value_width: int = 0  # V; 0: D / num_heads
  use_bias: bool = False

  @nn.compact
  def __call__(self, encoder_outputs, mask=None) -> ProjectedSource:  # [B, S, D], [B, S]
    share = encoder_outputs.shape[2] // self.num_heads

    def compute_keys_or_values(head_width, projection_name):
      heads = (self.num_heads, head_width or share)
      options = {
        'use_bias': self.use_bias, 'dtype': encoder_outputs.dtype, 'name': projection_name}
      projected = DenseGeneral(heads, **options)(apply_mask(encoder_outputs, mask))
      return projected.transpose(0, 2, 3, 1)

    valid = jnp.ones(encoder_outputs.shape[:2], bool) if mask is None else mask
    key = compute_keys_or_values(self.key_width, 'key')
    value = compute_keys_or_values(self.value_width, 'value')
    return ProjectedSource(key, value, valid)


class CrossAttention(SequenceLayer):
  """Multi-head attention to a source, whose projected keys and values are the state of the layer.

  Without a source the output is 0.

  Examples:
    >>> layer = CrossAttention(num_heads=2)
    >>> x, memory = jnp.ones((1, 3, 4)), jnp.ones((1, 5, 4))
    >>> source, _ = layer.source_projection.init_with_output(jax.random.key(0), memory)
    >>> (y, state), parameters = layer.init_with_output(jax.random.key(1), x, source)
    >>> y.shape, state.key.shape
    ((1, 3, 4), (1, 2, 2, 5))

  """

  num_heads: int = 4
  key_width: int = 0  # K, of each head's queries and keys; 0: D / num_heads
  value_width: int = 0  # V, of each head's values; 0: D / num_heads
  use_bias: bool = False
  form: str = 'auto'

  receptive_field: ClassVar[int] = 1

  def __post_init__(self):
    super().__post_init__()
    require_option_values_at_least(self, 1, 'num_heads')
    require_option_values_at_least(self, 0, 'key_width', 'value_width')
    require_one_of(self, 'form', FORMS)

  @property
  def required_width_divisor(self):
    """The number of heads, which must divide the model width."""
    return self.num_heads

  @property
  def source_projection(self):
    """The module that projects encoder outputs to the keys and values of this layer."""
    widths = self.key_width, self.value_width
    return ProjectSource(self.num_heads, *widths, self.use_bias, parent=None)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Returns keys and values of a source that consists of `capacity` padding tokens."""
    check_width(self, width)
    share = width // self.num_heads
    key, value = (
      jnp.zeros((batch_size, self.num_heads, channels or share, capacity), dtype)
      for channels in (self.key_width, self.value_width)
    )
    return ProjectedSource(key, value, jnp.zeros((batch_size, capacity), bool))

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    (batch_size, _, width), x = x.shape, apply_mask(x, mask)
    check_width(self, width)
    memory = self.initial_state(batch_size, 1, width, x.dtype) if state is None else state
    heads = (self.num_heads, self.key_width or width // self.num_heads)
    options = {'use_bias': self.use_bias, 'dtype': x.dtype}
    query = DenseGeneral(heads, name='query', **options)(x).swapaxes(1, 2)[:, :, None]
    key, value = memory.key.astype(x.dtype), memory.value.astype(x.dtype)
    attention_mask = AttentionMask(valid=memory.valid, causal=False)
    sow_weights(self, query, key, attention_mask)
    y = attend(query, key, value, attention_mask, form=self.form)[:, :, 0]
    return DenseGeneral(width, (1, 3), name='output', **options)(y), memory
