"""How an encoder reads: the source is all there, so that what follows a token counts as well.

  Bidirectional   y_t = W [f(x_1 .. x_t), b(x_S .. x_t)] + bias     (Schuster and Paliwal 1997)
                  any layer twice, f forwards and b backwards, each with parameters of its own
  Centred         y_t = f(x_{t - r + 1 + a} .. x_{t + a}),  a = floor((r - 1) / 2)
                  a layer that sees r tokens and treats none of them as the present one, such as a
                  convolution, half of them ahead (Kalchbrenner et al. 2016; Gehring et al. 2017)
  PaddingFirst    one way, but the state that it leaves is the one after the last token, whatever
                  padding follows: that state may be all that a decoder gets

`bidirectional_of` gives each layer's form. None of them streams: a source is read at once.
"""

import jax.numpy as jnp
from flax import linen as nn

from transformer.layer import SequenceLayer


def bidirectional_of(layer: SequenceLayer) -> SequenceLayer:
  """The layer as an encoder has it, reading what comes after a token as well."""
  if layer.bidirectional is not None:
    return layer.bidirectional
  if layer.receptive_field == 1:  # there is nothing to read on either side
    return layer
  return Bidirectional(layer, parent=None)


class Wrapped(SequenceLayer):
  """A layer that is read in another way; it takes what that layer takes."""

  layer: SequenceLayer

  @property
  def input_layer(self):
    """The layer's."""
    return self.layer.input_layer

  @property
  def width_multiple(self):
    """The layer's."""
    return self.layer.width_multiple

  @property
  def bidirectional(self):
    """Itself."""
    return self


class Bidirectional(Wrapped):
  """A layer forwards and one backwards, joined by a dense layer; it keeps no state."""

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    reversed_mask = None if mask is None else mask[:, ::-1]  # padding is first then, and is held
    forward, backward = (self.layer.copy(name=name) for name in ('forward', 'backward'))
    past, _ = forward(x, mask=mask, train=train)
    future, _ = backward(x[:, ::-1], mask=reversed_mask, train=train)
    joined = jnp.concatenate([past, future[:, ::-1]], -1)
    return nn.Dense(x.shape[2], dtype=x.dtype, name='join')(joined), ()


class Centred(Wrapped):
  """A layer whose window of r tokens ends (r - 1) // 2 tokens ahead; it keeps no state."""

  def __post_init__(self):
    super().__post_init__()
    if self.layer.receptive_field is None:
      kind = type(self.layer).__name__
      raise ValueError(f'{kind} cannot be centred: it sees all that came before, not a window')

  @property
  def receptive_field(self):
    """As many tokens as the layer sees, though not the latest."""
    return self.layer.receptive_field

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    ahead = (self.receptive_field - 1) // 2
    mask = jnp.ones(x.shape[:2], bool) if mask is None else mask
    x = jnp.pad(x, ((0, 0), (0, ahead), (0, 0)))
    y, _ = self.layer(x, mask=jnp.pad(mask, ((0, 0), (0, ahead))), train=train)
    return y[:, ahead:], ()


class PaddingFirst(Wrapped):
  """A layer to which each row comes with its padding in front of it; y stays in its places.

  Only layers in which padding takes time need it: they keep the latest inputs, and so padding.
  """

  @property
  def receptive_field(self):
    """The layer's."""
    return self.layer.receptive_field

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """The layer's."""
    return self.layer.initial_state(batch_size, capacity, width, dtype)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    if mask is None or not self.layer.padding_takes_time:
      return self.layer(x, state, mask=mask, train=train)
    rows, mask = jnp.arange(len(x))[:, None], jnp.asarray(mask)
    order = jnp.argsort(mask, 1, stable=True)
    y, state = self.layer(x[rows, order], state, mask=mask[rows, order], train=train)
    return y[rows, jnp.argsort(order, 1)], state
