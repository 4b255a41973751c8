"""Whole models: from the source's tokens (or real channels) to an answer at every position."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from transformer.layer import SequenceLayer, masked


class DecoderOnly(nn.Module):
  """Embedding, a stack of blocks, a last norm, a head; a sequence layer over tokens.

  It keeps the interface and the laws of `transformer.layer`, from source [B, T] (tokens) or
  [B, T, channels] (reals) to outputs [B, T, V] in float32. A layer that needs something added to
  the embeddings, such as absolute positions, says so by its `prelude`.
  """

  embedding: nn.Module  # source -> [B, T, D]
  stack: SequenceLayer
  head: nn.Module  # [B, T, D] -> [B, T, V]
  last_norm: bool = True  # a pre-norm stack leaves its sum unnormalised
  dtype: Any = jnp.float32

  @property
  def receptive_field(self):
    """The stack's."""
    return self.stack.receptive_field

  def initial_state(self, batch_size: int, capacity: int, width: int):
    """The prelude's state and the stack's."""
    parts = (self.stack.prelude, self.stack)
    return tuple(
      () if part is None else part.initial_state(batch_size, capacity, width, self.dtype)
      for part in parts
    )

  @nn.compact
  def __call__(self, source, state=None, *, mask=None, train=False):
    below, above = (None, None) if state is None else state
    x = self.embedding(masked(source, mask)).astype(self.dtype)  # [B, T, D]
    after = ()
    if self.stack.prelude is not None:
      prelude = self.stack.prelude.copy(name='prelude')
      x, after = prelude(x, below, mask=mask, train=train)
    x, above = self.stack(x, above, mask=mask, train=train)
    if self.last_norm:
      x = nn.LayerNorm(dtype=x.dtype, name='last_norm')(x)
    return self.head(x).astype(jnp.float32), (after, above)
