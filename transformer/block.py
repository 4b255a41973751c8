"""The shell around a layer: it owns the norm, the skip and the dropout; the layer is a slot.

  pre    x + dropout(layer(norm(x)))     (Xiong et al. 2020)
  post   norm(x + dropout(layer(x)))     (Vaswani et al. 2017)
  none   x + dropout(layer(x)), or bare dropout(layer(x)) without the residual

Two models that differ in what fills the slot differ in nothing else.
"""

import jax.numpy as jnp
from flax import linen as nn

from transformer.bidirectional import bidirectional_of
from transformer.layer import SequenceLayer, masked
from transformer.normalization import LayerNorm
from transformer.options import one_of

NORMS = ('pre', 'post', 'none')


class Block(SequenceLayer):
  """A layer with a residual connection and a layer norm around it."""

  layer: SequenceLayer
  norm: str = 'pre'  # where it stands
  residual: bool = True
  dropout: float = 0.0
  normalization: nn.Module = LayerNorm(parent=None)  # what it is

  def __post_init__(self):
    super().__post_init__()
    one_of(self, 'norm', NORMS)
    if not 0 <= self.dropout < 1:
      raise ValueError(f'dropout is at least 0 and below 1, not {self.dropout}')

  @property
  def receptive_field(self):
    """The layer's."""
    return self.layer.receptive_field

  @property
  def padding_takes_time(self):
    """The layer's."""
    return self.layer.padding_takes_time

  @property
  def input_layer(self):
    """The layer's."""
    return self.layer.input_layer

  @property
  def source_projection(self):
    """The layer's."""
    return self.layer.source_projection

  @property
  def bidirectional(self):
    """The same around the layer's."""
    return self.clone(layer=bidirectional_of(self.layer))

  @property
  def width_multiple(self):
    """The layer's."""
    return self.layer.width_multiple

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """The layer's."""
    return self.layer.initial_state(batch_size, capacity, width, dtype)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    x = masked(x, mask)
    norm = lambda y: y  # noqa: E731
    if self.norm != 'none':
      norm = self.normalization.copy(dtype=x.dtype, name='norm')
    y = norm(x) if self.norm == 'pre' else x
    y, state = self.layer(y, state, mask=mask, train=train)
    y = nn.Dropout(self.dropout, deterministic=not train)(y)
    if self.residual:
      y = x + y
    return norm(y) if self.norm == 'post' else y, state
