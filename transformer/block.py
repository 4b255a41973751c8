"""A residual block, which consists of a layer, a norm, a residual connection and dropout.

  pre    x + dropout(layer(norm(x)))     (Xiong et al. 2020)
  post   norm(x + dropout(layer(x)))     (Vaswani et al. 2017)
  none   x + dropout(layer(x)), or dropout(layer(x)) without the residual connection

The norm, the residual connection and the dropout belong to the block and not to the layer, so that
models with different layers have everything else in common.
"""

import jax.numpy as jnp
from flax import linen as nn

from transformer.bidirectional import make_bidirectional
from transformer.layer import SequenceLayer, apply_mask
from transformer.normalization import LayerNorm
from transformer.options import require_one_of

NORMS = ('pre', 'post', 'none')


class Block(SequenceLayer):
  """A residual block that contains a sequence layer.

  Examples:
    >>> import jax
    >>> from transformer.feedforward import FeedForward
    >>> block, x = Block(FeedForward('relu'), norm='post'), jnp.ones((1, 3, 4))
    >>> (y, state), parameters = block.init_with_output(jax.random.key(0), x)
    >>> y.shape, sorted(parameters['params'])
    ((1, 3, 4), ['layer', 'norm'])

  """

  layer: SequenceLayer
  norm: str = 'pre'  # the position of the norm
  residual: bool = True
  dropout: float = 0.0
  normalization: nn.Module = LayerNorm(parent=None)  # the normalization module

  def __post_init__(self):
    super().__post_init__()
    require_one_of(self, 'norm', NORMS)
    if not 0 <= self.dropout < 1:
      raise ValueError(f'dropout must be at least 0 and below 1, not {self.dropout}')

  @property
  def receptive_field(self):
    return self.layer.receptive_field

  @property
  def padding_occupies_positions(self):
    return self.layer.padding_occupies_positions

  @property
  def input_layer(self):
    return self.layer.input_layer

  @property
  def source_projection(self):
    return self.layer.source_projection

  @property
  def bidirectional_version(self):
    """A copy of this block with the bidirectional variant of its layer."""
    return self.clone(layer=make_bidirectional(self.layer))

  @property
  def required_width_divisor(self):
    return self.layer.required_width_divisor

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    return self.layer.initial_state(batch_size, capacity, width, dtype)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    x = apply_mask(x, mask)
    norm = lambda y: y  # noqa: E731
    if self.norm != 'none':
      norm = self.normalization.copy(dtype=x.dtype, name='norm')
    y = norm(x) if self.norm == 'pre' else x
    y, state = self.layer(y, state, mask=mask, train=train)
    y = nn.Dropout(self.dropout, deterministic=not train)(y)
    if self.residual:
      y = x + y
    return norm(y) if self.norm == 'post' else y, state
