"""Complete models, which map tokens or real-valued channels to an output at every position.

DecoderOnly models one sequence. EncoderDecoder encodes a source and computes outputs at every
position of a target (Sutskever et al. 2014; Vaswani et al. 2017). The source enters the decoder
through the decoder's initial state, in one of two forms:

  outputs   a layer that attends to the source, such as cross-attention, stores all encoder outputs
  states    a layer starts from the final state of the encoder's layer, a vector of fixed size
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer.layer import SequenceLayer, apply_mask
from transformer.normalization import LayerNorm
from transformer.stack import Stack


class DecoderOnly(nn.Module):
  """A model of a single sequence, with an embedding, a stack of blocks, a final norm and a head.

  The model has the interface and satisfies the laws of `transformer.layer`. It maps a source [B, T]
  (tokens) or [B, T, channels] (reals) to outputs [B, T, V] in float32. The stack's `input_layer`,
  such as the layer of absolute positions, is applied to the embeddings.

  Examples:
    >>> from transformer.attention import Attention
    >>> from transformer.block import Block
    >>> stack = Stack((Block(Attention(num_heads=2)),), depth=1)
    >>> model = DecoderOnly(nn.Embed(7, 8), stack, head=nn.Dense(7))
    >>> tokens = jnp.array([[3, 1, 4]])
    >>> (logits, state), parameters = jax.jit(model.init_with_output)(jax.random.key(0), tokens)
    >>> logits.shape
    (1, 3, 7)

    Two chunks, from a state with a capacity of 3 tokens, have the same logits.

    >>> step = jax.jit(model.apply)
    >>> first, state = step(parameters, tokens[:, :2], model.initial_state(1, 3, 8))
    >>> last, state = step(parameters, tokens[:, 2:], state)
    >>> bool(jnp.allclose(jnp.concatenate([first, last], 1), logits, atol=1e-5))
    True

  """

  embedding: nn.Module  # source -> [B, T, D]
  stack: SequenceLayer
  head: nn.Module | None = None  # [B, T, D] -> [B, T, V]; None: the embedding's transpose
  normalization: nn.Module | None = LayerNorm(parent=None)  # of the output of a pre-norm stack
  dtype: Any = jnp.float32

  @property
  def receptive_field(self):
    """The number of input tokens that each output depends on, or None if unbounded."""
    return self.stack.receptive_field

  def initial_state(self, batch_size: int, capacity: int, width: int):
    """Creates the state of the model before the first token.

    Args:
      batch_size: B, the number of sequences.
      capacity: the maximum number of tokens in total.
      width: D, the width of the embeddings.

    Returns:
      The state of the input layer, () without one, and the state of the stack.

    """
    parts = (self.stack.input_layer, self.stack)
    return tuple(
      () if part is None else part.initial_state(batch_size, capacity, width, self.dtype)
      for part in parts
    )

  def __call__(self, source, state=None, *, mask=None, train=False):
    """Computes outputs [B, T, V] and the next state.

    The arguments are those of `SequenceLayer.__call__`.
    """
    features, state = self.features(source, state, mask=mask, train=train)
    return self.outputs(features), state

  @nn.compact
  def features(self, source, state=None, *, mask=None, train=False):
    """Computes the inputs of the head, which `outputs` maps to the outputs of the model.

    Args:
      source: tokens [B, T] or reals [B, T, channels].
      state: the state after all earlier tokens; None if the sequence starts here.
      mask: [B, T] true at valid tokens; None if all are valid.
      train: whether dropout is active.

    Returns:
      The features [B, T, D], and the next state.

    """
    input_state, stack_state = (None, None) if state is None else state
    x = self.embedding(apply_mask(source, mask)).astype(self.dtype)  # [B, T, D]
    next_input_state = ()
    if self.stack.input_layer is not None:
      input_layer = self.stack.input_layer.copy(name='prelude')
      x, next_input_state = input_layer(x, input_state, mask=mask, train=train)
    x, stack_state = self.stack(x, stack_state, mask=mask, train=train)
    if self.normalization is not None:
      x = self.normalization.copy(dtype=x.dtype, name='last_norm')(x)
    return x, (next_input_state, stack_state)

  def outputs(self, features: jax.Array) -> jax.Array:
    """Applies the head to features [..., D], which gives outputs [..., V] in float32."""
    return _apply_head(self.embedding, self.head, features)

  def select_head_parameters(self, parameters):
    """Returns the parameters that `outputs` uses, as a part of the model's parameters."""
    return _select_parameters(parameters, 'embedding' if self.head is None else 'head')


def _apply_head(embedding: nn.Module, head: nn.Module | None, features: jax.Array) -> jax.Array:
  """Computes outputs by the head or, without one, by the transpose of the embedding."""
  outputs = embedding.attend(features) if head is None else head(features)
  return outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))


def _select_parameters(parameters, submodule: str):
  """Returns a part of a model's parameters, those of one submodule."""
  return {'params': {submodule: parameters['params'][submodule]}}


@functools.cache  # one object per width, so that equal models compare equal
def _inverse_sqrt_initializer(width: int):
  """Returns a normal initializer with a standard deviation of 1 / sqrt(width)."""
  return nn.initializers.normal(width**-0.5)


def tied_embedding(vocabulary_size: int, width: int) -> nn.Embed:
  """Creates an embedding matrix for inputs and outputs, with entries of variance 1 / width."""
  return nn.Embed(vocabulary_size, width, embedding_init=_inverse_sqrt_initializer(width))


class EncoderDecoder(nn.Module):
  """Maps source tokens [B, S] and target tokens [B, T] to outputs [B, T, V] in float32.

  `encode` returns the state for `decode`, which accepts the target in one call, in chunks or token
  by token.
  """

  embedding: nn.Module  # of the source, and of target and output if these are None
  encoder: Stack
  decoder: Stack
  target_embedding: nn.Module | None = None
  head: nn.Module | None = None
  normalization: nn.Module | None = LayerNorm(parent=None)  # of the outputs of pre-norm stacks
  dropout: float = 0.0  # of the sums of embeddings and positions
  scale_embeddings: bool = True  # by sqrt(D) (Vaswani et al. 2017, section 3.4)
  carry_state: bool = False  # the encoder's final state is the decoder's initial state
  reverse_source: bool = False  # as Sutskever et al. 2014, section 3.3
  dtype: Any = jnp.float32

  def setup(self):
    self.preludes = tuple(
      None if stack.input_layer is None else stack.input_layer.copy()
      for stack in (self.encoder, self.decoder)
    )
    self.bridges = tuple(
      None if level.source_projection is None else level.source_projection.copy()
      for level in self.decoder.all_layers
    )
    # The encoder needs a final norm only if a decoder layer uses the encoder outputs.
    uses_encoder_outputs = any(bridge is not None for bridge in self.bridges)
    self.norms = tuple(
      self.normalization.copy(dtype=self.dtype) if self.normalization is not None and used else None
      for used in (uses_encoder_outputs, True)
    )
    self.drop = nn.Dropout(self.dropout)

  @property
  def receptive_field(self):
    """None, because each output depends on all source tokens."""
    return None

  def initial_state(self, batch_size: int, capacity: int, width: int):
    """Creates a decoder state for a source that consists of padding.

    The state has the shapes of a state that `encode` returns.

    Args:
      batch_size: B, the number of sequences.
      capacity: the number of source tokens and the maximum number of target tokens.
      width: D, the width of the embeddings.

    Returns:
      The state of the decoder's input layer, None without one, and the state of the decoder.

    """
    input_layer = self.decoder.input_layer
    input_state = (
      None if input_layer is None else input_layer.initial_state(batch_size, capacity, width))
    return input_state, self.decoder.initial_state(batch_size, capacity, width, self.dtype)

  def encode(self, source, *, mask=None, capacity=0, train=False):  # [B, S]
    """Encodes a source and returns the decoder's state before the first target token.

    Args:
      source: [B, S] tokens.
      mask: [B, S] true at valid tokens; None if all are valid.
      capacity: the maximum number of target tokens; 0 to decode the target in one call.
      train: whether dropout is active.

    Returns:
      The state of the decoder's input layer and a tuple of states, one for each decoder level.

    """
    if self.reverse_source:  # the padding is first then, where it leaves states unchanged
      source = source[:, ::-1]
      mask = None if mask is None else mask[:, ::-1]
    batch_size, length = source.shape
    x, _ = self._embed_tokens(
      self.embedding, self.preludes[0], apply_mask(source, mask), None, train)
    encoder_state = None
    if self.carry_state:
      encoder_state = self.encoder.initial_state(
        batch_size, length + capacity, x.shape[2], self.dtype)
    x, encoder_state = self.encoder(x, encoder_state, mask=mask, train=train)
    if self.norms[0] is not None:
      x = self.norms[0](x)

    states = [None] * len(self.bridges)
    if capacity or self.carry_state:
      states = list(self.decoder.initial_state(batch_size, capacity, x.shape[2], self.dtype))
    if self.carry_state:
      states = self._copy_encoder_states_to_decoder(encoder_state, states)
    for level, source_projection in enumerate(self.bridges):
      if source_projection is not None:
        states[level] = source_projection(x, mask)
    input_state = None
    if capacity and self.preludes[1] is not None:
      input_state = self.preludes[1].initial_state(batch_size, capacity, x.shape[2], self.dtype)
    return input_state, tuple(states)

  def decode(self, target, state, *, mask=None, train=False):  # [B, T]
    """Computes the outputs for target tokens, given the state after all earlier target tokens.

    Args:
      target: [B, T] tokens.
      state: from `encode`, or from the last call of `decode`.
      mask: [B, T] true at valid tokens; None if all are valid.
      train: whether dropout is active.

    Returns:
      Outputs [B, T, V], which predict the token after each target token, and the next state.

    """
    features, state = self._decode_features(target, state, mask, train)
    return self.outputs(features), state

  def _decode_features(self, target, state, mask, train):
    """Computes the inputs [B, T, D] of the head for target tokens, and the next state."""
    input_state, states = state
    x, input_state = self._embed_tokens(
      self._output_embedding, self.preludes[1], apply_mask(target, mask), input_state, train)
    x, states = self.decoder(x, states, mask=mask, train=train)
    if self.norms[1] is not None:
      x = self.norms[1](x)
    return x, (input_state, states)

  @property
  def _output_embedding(self):
    """The embedding of target tokens, whose transpose is the head of a model without one."""
    return self.embedding if self.target_embedding is None else self.target_embedding

  def outputs(self, features: jax.Array) -> jax.Array:
    """Applies the head to features [..., D], which gives outputs [..., V] in float32."""
    return _apply_head(self._output_embedding, self.head, features)

  def select_head_parameters(self, parameters):
    """Returns the parameters that `outputs` uses, as a part of the model's parameters."""
    embedding = 'embedding' if self.target_embedding is None else 'target_embedding'
    return _select_parameters(parameters, embedding if self.head is None else 'head')

  def __call__(self, source, target, *, mask=None, train=False):
    """Computes outputs for all tokens of a target, given a source.

    Args:
      source: [B, S] tokens.
      target: [B, T] tokens.
      mask: [B, S] true at valid source tokens; None if all are valid.
      train: whether dropout is active.

    Returns:
      Outputs [B, T, V], which predict the token after each target token, and the final state.

    """
    features, state = self.features(source, target, mask=mask, train=train)
    return self.outputs(features), state

  def features(self, source, target, *, mask=None, train=False):
    """Computes the inputs of the head, which `outputs` maps to the outputs of the model.

    Args:
      source: [B, S] tokens.
      target: [B, T] tokens.
      mask: [B, S] true at valid source tokens; None if all are valid.
      train: whether dropout is active.

    Returns:
      The features [B, T, D] of all target tokens, and the final state.

    """
    state = self.encode(source, mask=mask, train=train)
    return self._decode_features(target, state, None, train)

  def _embed_tokens(self, embedding, input_layer, tokens, input_state, train):
    """Embeds tokens and applies the input layer to the embeddings.

    Returns the resulting inputs [B, T, D] of the stack and the new state of the input layer.
    """
    x = embedding(tokens).astype(self.dtype)
    if self.scale_embeddings:
      x *= math.sqrt(x.shape[2])
    if input_layer is not None:
      x, input_state = input_layer(x, input_state, train=train)
    return self.drop(x, deterministic=not train), input_state

  def _copy_encoder_states_to_decoder(self, encoder_states, decoder_states):
    """Copies final encoder states to the initial states of decoder layers.

    Decoder layers that attend to the source, and layers without state, receive no encoder state.
    """
    targets = [
      level for level, state in enumerate(decoder_states)
      if jax.tree.leaves(state) and self.bridges[level] is None
    ]
    sources = [state for state in encoder_states if jax.tree.leaves(state)]
    shapes = [jax.tree.map(jnp.shape, decoder_states[level]) for level in targets]
    if [jax.tree.map(jnp.shape, state) for state in sources] != shapes:
      raise ValueError(
        'carry_state=True needs encoder states of the same shapes as the decoder states')
    for level, state in zip(targets, sources, strict=True):
      decoder_states[level] = state
    return decoder_states
