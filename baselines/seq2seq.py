"""Encoder-decoders: how a layer becomes an encoder and a decoder, and what passes between them.

  transformer      attention to the source above every layer      (Vaswani et al. 2017)
  fixed_vector     the encoder's last state, a vector of fixed size, and nothing else
                                              (Sutskever et al. 2014; with GRU Cho et al. 2014)
  additive         attention inside the lowest recurrence         (Bahdanau et al. 2015); the layers
                   above it are plain ones, as in GNMT            (Wu et al. 2016)
  multiplicative   the last state, and attention above the highest layer   (Luong et al. 2015)
  convs2s          attention beside every convolution             (Gehring et al. 2017)
  bytenet          the source's places added to the target's, one for one
                                                                  (Kalchbrenner et al. 2016)

A translator gives blocks of bare layers. Norms, skips, feed-forward layers, embeddings and the
output are the shell's and the model's, the same for all of them, so that what differs is how the
source gets across; what the papers have there, such as Bahdanau's maxout layer, is left out.
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
from transformer.bidirectional import PaddingFirst, bidirectional_of
from transformer.cross_attention import CrossAttention
from transformer.layer import SequenceLayer, masked
from transformer.positions import Sinusoidal

Blocks = tuple[tuple[SequenceLayer, ...], ...]  # bottom first
ENDLESS = 1 << 20  # tokens, for the state of a layer whose state may grow
# What the papers translated with; records do not change, so that one serves all as a default.
VASWANI, SUTSKEVER, BAHDANAU = Attention(positions=Sinusoidal()), LSTM(), GRU()
KALCHBRENNER = ByteNet()


class Translator:
  """How an encoder and a decoder are made of a layer; a hybrid's layers take turns, one a block."""

  layer: SequenceLayer
  carry_state: ClassVar[bool] = False  # whether the encoder's last state is the decoder's first
  reverse: ClassVar[bool] = False

  def __post_init__(self):
    if not all(getattr(layer, 'causal', True) for layer in self.layer.pattern):
      raise ValueError('a decoder reads one way: causal=False is what an encoder has by itself')

  @property
  def reverse_source(self) -> bool:
    """Whether the last token is read first."""
    return self.reverse

  def encoder(self, depth: int) -> Blocks:
    """Layers that read both ways."""
    return tuple((bidirectional_of(layer),) for layer in self._turns(depth))

  def decoder(self, depth: int) -> Blocks:
    """The layers themselves."""
    return tuple((layer,) for layer in self._turns(depth))

  def _turns(self, depth):
    return itertools.islice(itertools.cycle(self.layer.pattern), depth)


@dataclasses.dataclass(frozen=True)
class Transformer(Translator):
  """Any layer that reads both ways, and the same one way with attention to the source above it."""

  layer: SequenceLayer = VASWANI
  num_heads: int = 0  # of the attention to the source; 0: as many as the layer has, or else 4

  def __post_init__(self):
    super().__post_init__()
    if self.num_heads < 0:
      raise ValueError(f'Transformer needs num_heads >= 0, not {self.num_heads}')

  def decoder(self, depth):
    """A layer and attention to the source, a block."""
    def looking(layer):
      heads = self.num_heads or getattr(layer, 'num_heads', 4)
      widths = (getattr(layer, name, 0) for name in ('key_width', 'value_width'))
      return CrossAttention(heads, *widths)

    return tuple((layer, looking(layer)) for layer in self._turns(depth))


@dataclasses.dataclass(frozen=True)
class FixedVector(Translator):
  """One layer's last state is the other's first: the fixed-length bottleneck."""

  layer: SequenceLayer = SUTSKEVER
  reverse: bool = False  # the last token is read first (Sutskever et al. 2014, section 3.3)

  carry_state: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    if state_shapes(self.layer, 0) != state_shapes(self.layer, ENDLESS):
      kind = type(self.layer).__name__
      raise ValueError(f'the state of {kind} grows with the source: it is no vector of fixed size')

  def encoder(self, depth):
    """One way; the state that is handed on is that after the last token, not after padding."""
    return tuple((PaddingFirst(layer),) for layer in self._turns(depth))


@dataclasses.dataclass(frozen=True)
class Multiplicative(FixedVector):
  """The last state is handed on, and the highest layer's output attends to the source."""

  score: str = 'general'  # or 'dot'

  def __post_init__(self):
    super().__post_init__()
    GlobalAttention(self.score)  # a ValueError if there is no such score

  def decoder(self, depth):
    """The layers, and attention to the source on top."""
    *below, (top,) = super().decoder(depth)
    return *below, (top, GlobalAttention(self.score))


@dataclasses.dataclass(frozen=True)
class Additive(Translator):
  """A recurrent layer with the attention in its loop; the encoder reads both ways."""

  layer: SequenceLayer = BAHDANAU

  def __post_init__(self):
    super().__post_init__()
    AdditiveAttention(self.layer)  # a ValueError if the layer has no cell

  def decoder(self, depth):
    """The attention stands in the lowest layer."""
    _, *above = super().decoder(depth)
    return (AdditiveAttention(self.layer),), *above


@dataclasses.dataclass(frozen=True)
class ConvS2STranslator(Translator):
  """Centred gated convolutions, and causal ones with attention at every level."""

  kernel_size: int = 3
  levels: int = 4  # a block

  def __post_init__(self):
    self.encoder(1)  # a ValueError for what convolutions cannot be

  @property
  def layer(self):
    """The encoder's layer, as it would read one way."""
    return ConvS2S(self.kernel_size, self.levels)

  def decoder(self, depth):
    """With attention."""
    return ((AttentiveConvS2S(self.kernel_size, self.levels),),) * depth


@dataclasses.dataclass(frozen=True)
class ByteNetTranslator(Translator):
  """The decoder stands on the encoder: token t of the target on token t of the source."""

  layer: SequenceLayer = KALCHBRENNER

  def decoder(self, depth):
    """The source is added at the bottom."""
    first, *above = super().decoder(depth)
    return (Unfold(), *first), *above


def state_shapes(layer: SequenceLayer, capacity: int):
  """The shapes of a layer's state with room for so many tokens; nothing is allocated."""
  width = layer.width_multiple
  state = jax.eval_shape(lambda: layer.initial_state(1, capacity, width))
  return jax.tree.map(lambda leaf: leaf.shape, state)


class Places(NamedTuple):
  """A source, and how much of it the target has gone past."""

  source: jax.Array  # [B, S, D], 0 at padding
  index: jax.Array  # []


class Lay(nn.Module):
  """What an encoder read, before the target's first token."""

  @nn.compact
  def __call__(self, memory, mask=None) -> Places:  # [B, S, D], [B, S]
    return Places(masked(memory, mask), jnp.int32(0))


class Unfold(SequenceLayer):
  """y_t = x_t + m_t for the encoder's output m, which ends where the source does.

  ByteNet's "dynamic unfolding" (section 3.2), but for the length: the paper pads the source to
  a |s| + b tokens, which the target rarely exceeds, and the encoder reads on; here what is beyond
  the source is 0, and the decoder sees as much of it as its receptive field reaches back to.
  """

  @property
  def receptive_field(self):
    """The token itself."""
    return 1

  @property
  def source_projection(self):
    """The source as it is."""
    return Lay(parent=None)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """A source of nothing."""
    return Places(jnp.zeros((batch_size, capacity, width), dtype), jnp.int32(0))

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    (batch_size, length, width), x = x.shape, masked(x, mask)
    source, index = self.initial_state(batch_size, 1, width, x.dtype) if state is None else state
    places = index + jnp.arange(length)
    beside = jnp.take(source, places, 1, mode='fill', fill_value=0).astype(x.dtype)
    return x + beside, Places(source, index + length)
