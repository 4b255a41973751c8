"""Bidirectional layers for encoders, whose outputs may depend on all source tokens.

  Bidirectional   y_t = W [f(x_1 .. x_t), b(x_S .. x_t)] + bias     (Schuster and Paliwal 1997)
                  any layer in two directions, f forwards and b backwards, with separate parameters
  Centred         y_t = f(x_{t - r + 1 + a} .. x_{t + a}),  a = floor((r - 1) / 2)
                  a layer with a receptive field of r tokens that does not treat the latest token
                  differently, such as a convolution, shifted so that half of its tokens are later
                  than t (Kalchbrenner et al. 2016; Gehring et al. 2017)
  PaddingFirst    a causal layer whose final state is the state after the last valid token despite
                  the padding after it, as that state may be the only input of a decoder

`make_bidirectional` selects the variant for each layer. No variant supports streaming, since a
source is encoded in one call.
"""

import jax.numpy as jnp
from flax import linen as nn

from transformer.dense import Dense
from transformer.layer import SequenceLayer


def make_bidirectional(layer: SequenceLayer) -> SequenceLayer:
  """Returns a bidirectional variant of a causal layer, for an encoder."""
  if layer.bidirectional_version is not None:
    return layer.bidirectional_version
  if layer.receptive_field == 1:  # outputs depend on no other token in either direction
    return layer
  return Bidirectional(layer, parent=None)


class LayerWrapper(SequenceLayer):
  """Base class of encoder layers that contain a causal layer."""

  layer: SequenceLayer

  @property
  def input_layer(self):
    return self.layer.input_layer

  @property
  def required_width_divisor(self):
    return self.layer.required_width_divisor

  @property
  def bidirectional_version(self):
    """The layer itself, because it is already bidirectional."""
    return self


class Bidirectional(LayerWrapper):
  """A forward and a backward copy of a layer, whose outputs a dense layer combines.

  No state is returned.
  """

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    # In the reversed sequence, padding precedes all valid tokens and leaves the state unchanged.
    reversed_mask = None if mask is None else mask[:, ::-1]
    forward, backward = (self.layer.copy(name=name) for name in ('forward', 'backward'))
    past, _ = forward(x, mask=mask, train=train)
    future, _ = backward(x[:, ::-1], mask=reversed_mask, train=train)
    joined = jnp.concatenate([past, future[:, ::-1]], -1)
    return Dense(x.shape[2], dtype=x.dtype, name='join')(joined), ()


class Centred(LayerWrapper):
  """A wrapper that centres the receptive field of a layer, of r tokens, on the output token.

  The receptive field ends (r - 1) // 2 tokens after the output. No state is returned.
  """

  def __post_init__(self):
    super().__post_init__()
    if self.layer.receptive_field is None:
      kind = type(self.layer).__name__
      raise ValueError(f'{kind} cannot be centred: its receptive field is unbounded')

  @property
  def receptive_field(self):
    """The number r of input tokens that each output depends on."""
    return self.layer.receptive_field

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    shift = (self.receptive_field - 1) // 2
    mask = jnp.ones(x.shape[:2], bool) if mask is None else mask
    x = jnp.pad(x, ((0, 0), (0, shift), (0, 0)))
    y, _ = self.layer(x, mask=jnp.pad(mask, ((0, 0), (0, shift))), train=train)
    return y[:, shift:], ()


class PaddingFirst(LayerWrapper):
  """A causal layer whose inputs are reordered so that padding precedes the valid tokens.

  The outputs are in the original order. Only layers in which padding increases distances need
  this, because their state contains the latest inputs and would otherwise contain the padding.
  """

  @property
  def receptive_field(self):
    return self.layer.receptive_field

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    return self.layer.initial_state(batch_size, capacity, width, dtype)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    if mask is None or not self.layer.padding_occupies_positions:
      return self.layer(x, state, mask=mask, train=train)
    rows, mask = jnp.arange(len(x))[:, None], jnp.asarray(mask)
    order = jnp.argsort(mask, 1, stable=True)
    y, state = self.layer(x[rows, order], state, mask=mask[rows, order], train=train)
    return y[rows, jnp.argsort(order, 1)], state
