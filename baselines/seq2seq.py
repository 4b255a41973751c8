"""Encoder-decoder models that differ in how the decoder depends on the encoded source.

  transformer      attention to the source after every layer      (Vaswani et al. 2017)
  fixed_vector     only the encoder's last state, a vector of fixed size
                                              (Sutskever et al. 2014; with GRU Cho et al. 2014)
  additive         attention inside the lowest recurrent layer    (Bahdanau et al. 2015), with plain
                   layers above it, as in GNMT                    (Wu et al. 2016)
  multiplicative   the encoder's last state, and attention after the highest layer
                                                                  (Luong et al. 2015)
  convs2s          attention after every convolution              (Gehring et al. 2017)
  bytenet          encoder output t summed with the embedding of target token t
                                                                  (Kalchbrenner et al. 2016)

A translator returns blocks of layers without norms. Norms, residual connections, feed-forward
layers, embeddings and the output layer belong to the block and the model and are equal for all
translators, so that only the connection to the source differs. Corresponding parts of the papers,
such as the maxout layer of Bahdanau et al., are omitted.
"""

import dataclasses
import itertools
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from baselines.additive_attention import AdditiveAttention
from baselines.deep_convolution import ByteNet, ConvS2S
from baselines.global_attention import AttentiveConvS2S, GlobalAttention
from baselines.recurrent import GRU, LSTM
from transformer.attention import Attention
from transformer.bidirectional import PaddingFirst, make_bidirectional
from transformer.cross_attention import CrossAttention
from transformer.layer import SequenceLayer, apply_mask
from transformer.positions import Sinusoidal

Blocks = tuple[tuple[SequenceLayer, ...], ...]  # from bottom to top
UNBOUNDED_CAPACITY = 1 << 20  # in tokens, large enough to reveal a state that grows with it
# Layers are immutable, so all translators can share one default layer.
VASWANI, SUTSKEVER, BAHDANAU = Attention(positions=Sinusoidal()), LSTM(), GRU()
KALCHBRENNER = ByteNet()


class Translator:
  """Base class of translators, which build an encoder and a decoder from a sequence layer.

  The blocks cycle through the layers of a hybrid.
  """

  layer: SequenceLayer
  carry_state: ClassVar[bool] = False  # whether the decoder starts from the encoder's last state
  reverse: ClassVar[bool] = False

  def __post_init__(self):
    if not all(getattr(layer, 'causal', True) for layer in self.layer.layer_pattern):
      raise ValueError('translators need causal layers, which the encoder makes bidirectional')

  @property
  def reverses_source(self) -> bool:
    """Whether the encoder receives the source in reverse order."""
    return self.reverse

  def encoder(self, depth: int) -> Blocks:
    """The blocks of the encoder, each of which contains one bidirectional sequence layer."""
    return tuple((make_bidirectional(layer),) for layer in self._layer_of_each_block(depth))

  def decoder(self, depth: int) -> Blocks:
    """The blocks of the decoder, each of which contains one causal sequence layer."""
    return tuple((layer,) for layer in self._layer_of_each_block(depth))

  def _layer_of_each_block(self, depth):
    return itertools.islice(itertools.cycle(self.layer.layer_pattern), depth)


@dataclasses.dataclass(frozen=True)
class Transformer(Translator):
  """A translator whose decoder blocks contain a causal layer and then attention to the source."""

  layer: SequenceLayer = VASWANI
  num_heads: int = 0  # of the attention to the source; 0 copies the layer, or means 4 without heads

  def __post_init__(self):
    super().__post_init__()
    if self.num_heads < 0:
      raise ValueError(f'Transformer needs num_heads >= 0, not {self.num_heads}')

  def decoder(self, depth):
    """The blocks of the decoder, each with a causal layer and attention to the source."""
    def make_cross_attention_for_layer(layer):
      heads = self.num_heads or getattr(layer, 'num_heads', 4)
      widths = (getattr(layer, name, 0) for name in ('key_width', 'value_width'))
      return CrossAttention(heads, *widths)

    return tuple(
      (layer, make_cross_attention_for_layer(layer)) for layer in self._layer_of_each_block(depth)
    )


@dataclasses.dataclass(frozen=True)
class FixedVector(Translator):
  """A translator whose decoder receives the source only as the encoder's last state."""

  layer: SequenceLayer = SUTSKEVER
  reverse: bool = False  # reverses the source (Sutskever et al. 2014, section 3.3)

  carry_state: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    if state_shapes(self.layer, 0) != state_shapes(self.layer, UNBOUNDED_CAPACITY):
      kind = type(self.layer).__name__
      raise ValueError(f'the state of {kind} grows with the source and is not of fixed size')

  def encoder(self, depth):
    """The blocks of a causal encoder, whose final state excludes the padding after the source."""
    return tuple((PaddingFirst(layer),) for layer in self._layer_of_each_block(depth))


@dataclasses.dataclass(frozen=True)
class Multiplicative(FixedVector):
  """A translator whose decoder starts with the last encoder state and ends with Luong attention."""

  score: str = 'general'  # or 'dot'

  def __post_init__(self):
    super().__post_init__()
    GlobalAttention(self.score)  # raises a ValueError for an unknown score

  def decoder(self, depth):
    """The blocks of the decoder, with Luong attention to the source after the highest layer."""
    *below, (top,) = super().decoder(depth)
    return *below, (top, GlobalAttention(self.score))


@dataclasses.dataclass(frozen=True)
class Additive(Translator):
  """A translator whose recurrent decoder uses additive attention to the source at every step."""

  layer: SequenceLayer = BAHDANAU

  def __post_init__(self):
    super().__post_init__()
    AdditiveAttention(self.layer)  # raises a ValueError for a layer without a recurrent cell

  def decoder(self, depth):
    """The blocks of the decoder, with additive attention to the source in the lowest layer."""
    _, *above = super().decoder(depth)
    return (AdditiveAttention(self.layer),), *above


@dataclasses.dataclass(frozen=True)
class ConvS2STranslator(Translator):
  """A translator whose convolutional decoder attends to the source after each convolution."""

  kernel_size: int = 3
  levels: int = 4  # per block

  def __post_init__(self):
    self.encoder(1)  # raises a ValueError for invalid options of the convolutions

  @property
  def layer(self):
    """The causal layer whose bidirectional form the encoder uses."""
    return ConvS2S(self.kernel_size, self.levels)

  def decoder(self, depth):
    """The blocks of the decoder, with attention to the source after each convolution."""
    return ((AttentiveConvS2S(self.kernel_size, self.levels),),) * depth


@dataclasses.dataclass(frozen=True)
class ByteNetTranslator(Translator):
  """A translator whose decoder input is the embedding of target token t plus encoder output t."""

  layer: SequenceLayer = KALCHBRENNER

  def decoder(self, depth):
    """The decoder blocks, the lowest of which adds encoder output t to its input at position t."""
    first, *above = super().decoder(depth)
    return (AddAlignedSource(), *first), *above


def state_shapes(layer: SequenceLayer, capacity: int):
  """Computes the shapes of a layer's state arrays for a `capacity`, without allocating them."""
  width = layer.required_width_divisor
  state = jax.eval_shape(lambda: layer.initial_state(1, capacity, width))
  return jax.tree.map(lambda leaf: leaf.shape, state)


class AlignedSource(NamedTuple):
  """Encoder outputs and the position of the next target token."""

  source: jax.Array  # [B, S, D], 0 at padding
  index: jax.Array  # []


class InitialAlignedSource(nn.Module):
  """Creates the initial state of the `AddAlignedSource` layer from the encoder outputs."""

  @nn.compact
  def __call__(self, memory, mask=None) -> AlignedSource:  # [B, S, D], [B, S]
    return AlignedSource(apply_mask(memory, mask), jnp.int32(0))


class AddAlignedSource(SequenceLayer):
  """A layer that adds encoder output t to the input of the decoder at position t.

  The output is y_t = x_t + m_t within the length of the source, and y_t = x_t beyond it. This is
  the dynamic unfolding of ByteNet (section 3.2), except for the length. The paper pads the source
  to a |s| + b tokens, which the target rarely exceeds, and the encoder encodes the padding too.
  Here m_t is 0 after the end of the source, and the decoder has access to the encoder outputs
  within its receptive field.
  """

  @property
  def receptive_field(self):
    return 1

  @property
  def source_projection(self):
    return InitialAlignedSource(parent=None)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Returns encoder outputs of zeros, and 0 as the position of the next target token."""
    return AlignedSource(jnp.zeros((batch_size, capacity, width), dtype), jnp.int32(0))

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    (batch_size, length, width), x = x.shape, apply_mask(x, mask)
    source, index = self.initial_state(batch_size, 1, width, x.dtype) if state is None else state
    positions = index + jnp.arange(length)
    aligned = jnp.take(source, positions, 1, mode='fill', fill_value=0).astype(x.dtype)
    return x + aligned, AlignedSource(source, index + length)
