"""Whole models: from tokens (or real channels) to an answer at every position.

DecoderOnly reads one sequence. EncoderDecoder reads a source, then answers at every position of a
target (Sutskever et al. 2014; Vaswani et al. 2017). What the decoder knows of the source is its
state before the first token, in one of two ways:

  bridges   a layer that looks at sources, such as cross-attention, keeps all that was read
  states    a layer goes on from where the encoder's layer stopped: one vector of fixed length
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer.layer import SequenceLayer, masked
from transformer.normalization import LayerNorm
from transformer.stack import Stack


class DecoderOnly(nn.Module):
  """Embedding, a stack of blocks, a last norm, a head; a sequence layer over tokens.

  It keeps the interface and the laws of `transformer.layer`, from source [B, T] (tokens) or
  [B, T, channels] (reals) to outputs [B, T, V] in float32. A layer that needs something added to
  the embeddings, such as absolute positions, says so by its `prelude`.
  """

  embedding: nn.Module  # source -> [B, T, D]
  stack: SequenceLayer
  head: nn.Module | None = None  # [B, T, D] -> [B, T, V]; None: the embedding's transpose
  normalization: nn.Module | None = LayerNorm(parent=None)  # of a pre-norm stack's sum
  dtype: Any = jnp.float32

  @property
  def receptive_field(self):
    """The stack's."""
    return self.stack.receptive_field

  def initial_state(self, batch_size: int, capacity: int, width: int):
    """The prelude's state and the stack's."""
    parts = (self.stack.input_layer, self.stack)
    return tuple(
      () if part is None else part.initial_state(batch_size, capacity, width, self.dtype)
      for part in parts
    )

  @nn.compact
  def __call__(self, source, state=None, *, mask=None, train=False):
    below, above = (None, None) if state is None else state
    x = self.embedding(masked(source, mask)).astype(self.dtype)  # [B, T, D]
    after = ()
    if self.stack.input_layer is not None:
      input_layer = self.stack.input_layer.copy(name='prelude')
      x, after = input_layer(x, below, mask=mask, train=train)
    x, above = self.stack(x, above, mask=mask, train=train)
    if self.normalization is not None:
      x = self.normalization.copy(dtype=x.dtype, name='last_norm')(x)
    x = self.embedding.attend(x) if self.head is None else self.head(x)
    return x.astype(jnp.float32), (after, above)


@functools.cache  # one object for one width, so that equal models are equal
def _one_over_root(width: int):
  return nn.initializers.normal(width**-0.5)


def tied_embedding(size: int, width: int) -> nn.Embed:
  """One matrix for what is read and written: sqrt(D) times a row has unit variance."""
  return nn.Embed(size, width, embedding_init=_one_over_root(width))


class EncoderDecoder(nn.Module):
  """(source [B, S], target's past [B, T]) -> outputs [B, T, V] in float32, for tokens.

  `encode` gives the state from which `decode` goes on, at once, in pieces or token by token.
  """

  embedding: nn.Module  # of the source, and of the target and the output where those are None
  encoder: Stack
  decoder: Stack
  target_embedding: nn.Module | None = None
  head: nn.Module | None = None
  normalization: nn.Module | None = LayerNorm(parent=None)  # of both pre-norm stacks' sums
  dropout: float = 0.0  # of the sums of embeddings and positions
  scale_embeddings: bool = True  # by sqrt(D) (Vaswani et al. 2017, section 3.4)
  carry_state: bool = False  # the encoder's last state is the decoder's first
  reverse_source: bool = False  # the last token is read first (Sutskever et al. 2014, section 3.3)
  dtype: Any = jnp.float32

  def setup(self):
    self.preludes = tuple(
      None if stack.input_layer is None else stack.input_layer.copy()
      for stack in (self.encoder, self.decoder)
    )
    self.bridges = tuple(
      None if level.source_projection is None else level.source_projection.copy()
      for level in self.decoder.levels
    )
    heard = any(bridge is not None for bridge in self.bridges)  # else nobody reads the output
    self.norms = tuple(
      self.normalization.copy(dtype=self.dtype) if self.normalization is not None and read else None
      for read in (heard, True)
    )
    self.drop = nn.Dropout(self.dropout)

  @property
  def receptive_field(self):
    """None: all of the source."""
    return None

  def initial_state(self, batch_size: int, capacity: int, width: int):
    """What a decoder's state is like for a source and a target of `capacity` tokens each."""
    input_layer = self.decoder.input_layer
    below = None if input_layer is None else input_layer.initial_state(batch_size, capacity, width)
    return below, self.decoder.initial_state(batch_size, capacity, width, self.dtype)

  def encode(self, source, *, mask=None, capacity=0, train=False):  # [B, S]
    """The state before the target's first token.

    Args:
      source: [B, S] tokens.
      mask: [B, S] true where there is one to read.
      capacity: the most tokens of the target that will be read; 0: all, at once.
      train: whether dropout is on.

    """
    if self.reverse_source:  # what fills a row up comes first then, and moves nothing
      source = source[:, ::-1]
      mask = None if mask is None else mask[:, ::-1]
    batch_size, length = source.shape
    x, _ = self._embed(self.embedding, 0, masked(source, mask), None, train)
    before = None
    if self.carry_state:
      before = self.encoder.initial_state(batch_size, length + capacity, x.shape[2], self.dtype)
    x, after = self.encoder(x, before, mask=mask, train=train)
    if self.norms[0] is not None:
      x = self.norms[0](x)

    states = [None] * len(self.bridges)
    if capacity or self.carry_state:
      states = list(self.decoder.initial_state(batch_size, capacity, x.shape[2], self.dtype))
    if self.carry_state:
      states = self._carried(after, states)
    for level, source_projection in enumerate(self.bridges):
      if source_projection is not None:
        states[level] = source_projection(x, mask)
    below = None
    if capacity and self.preludes[1] is not None:
      below = self.preludes[1].initial_state(batch_size, capacity, x.shape[2], self.dtype)
    return below, tuple(states)

  def decode(self, target, state, *, mask=None, train=False):  # [B, T]
    """Outputs [B, T, V] for the tokens after those of target, and the state after them."""
    below, states = state
    embedding = self.embedding if self.target_embedding is None else self.target_embedding
    x, below = self._embed(embedding, 1, masked(target, mask), below, train)
    x, states = self.decoder(x, states, mask=mask, train=train)
    if self.norms[1] is not None:
      x = self.norms[1](x)
    x = embedding.attend(x) if self.head is None else self.head(x)
    return x.astype(jnp.float32), (below, states)

  def __call__(self, source, target, *, mask=None, train=False):
    """Outputs [B, T, V] for the tokens that follow each of target [B, T], and the last state."""
    state = self.encode(source, mask=mask, train=train)
    return self.decode(target, state, train=train)

  def _embed(self, embedding, side, tokens, state, train):
    """Tokens and positions as sums [B, T, D], and the positions' state."""
    x = embedding(tokens).astype(self.dtype)
    if self.scale_embeddings:
      x *= math.sqrt(x.shape[2])
    if self.preludes[side] is not None:
      x, state = self.preludes[side](x, state, train=train)
    return self.drop(x, deterministic=not train), state

  def _carried(self, encoded, states):
    """The decoder's states, those of its layers that look at no source taken from the encoder."""
    looks = [source_projection is not None for source_projection in self.bridges]
    own = [i for i, state in enumerate(states) if jax.tree.leaves(state) and not looks[i]]
    given = [state for state in encoded if jax.tree.leaves(state)]
    shapes = [jax.tree.map(jnp.shape, states[i]) for i in own]
    if [jax.tree.map(jnp.shape, state) for state in given] != shapes:
      raise ValueError('an encoder that hands its states on has layers as the decoder has them')
    for i, state in zip(own, given, strict=True):
      states[i] = state
    return states
