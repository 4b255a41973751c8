"""The models of "Attention is all you need": base, big, and every variation of its Table 3.

A preset is the row's own hyper-parameters; `model` is its encoder and decoder, exactly: post-norm,
sinusoidal positions, one matrix for both embeddings and the output, scaled by sqrt(d_model) where
it embeds, no biases in attention, dropout on the output of every sub-layer and on the sums of
embeddings and positions.

Many codebases run pre-norm under these names. Here that is said: `model(vocabulary, norm='pre')`.

Vaswani et al. 2017, sections 3, 5.4 and 6.2, Table 3.
"""

import dataclasses

import jax.numpy as jnp

from transformer.attention import Attention
from transformer.block import Block
from transformer.cross_attention import CrossAttention
from transformer.feedforward import FeedForward
from transformer.model import EncoderDecoder, tied_embedding
from transformer.normalization import LayerNorm
from transformer.positions import POSITIONS
from transformer.stack import Stack

VOCABULARY = 37000  # tokens shared by English and German (section 5.1)


@dataclasses.dataclass(frozen=True)
class TransformerPreset:
  """A row of Table 3; the defaults are those of base."""

  depth: int = 6  # N
  width: int = 512  # d_model
  inner: int = 2048  # d_ff
  heads: int = 8  # h
  key_width: int = 64  # d_k
  value_width: int = 64  # d_v
  dropout: float = 0.1  # P_drop
  label_smoothing: float = 0.1  # epsilon_ls
  positions: str = 'sinusoidal'
  steps: int = 100_000  # of training

  def model(self, vocabulary_size: int = VOCABULARY, norm: str = 'post', dtype=jnp.float32):
    """The encoder and decoder; `norm='pre'` is not the paper's."""
    widths = {'key_width': self.key_width, 'value_width': self.value_width}
    attention = Attention(self.heads, POSITIONS[self.positions](), **widths)
    feedforward = FeedForward('relu', self.inner / self.width)

    def stack(*layers):
      blocks = (Block(layer, norm=norm, dropout=self.dropout) for layer in layers)
      return Stack(tuple(blocks), self.depth)

    return EncoderDecoder(
      embedding=tied_embedding(vocabulary_size, self.width),
      encoder=stack(attention.bidirectional, feedforward),
      decoder=stack(attention, CrossAttention(self.heads, **widths), feedforward),
      normalization=LayerNorm() if norm == 'pre' else None,
      dropout=self.dropout,
      dtype=dtype,
    )

  def parameters(self, vocabulary_size: int = VOCABULARY) -> int:
    """How many numbers training changes: those of `model`, counted by hand.

    A layer of the encoder has one attention, one of the decoder two, each of them a feed-forward
    network; every one comes with a norm.
    """
    norm = 2 * self.width
    attention = 2 * self.width * self.heads * (self.key_width + self.value_width) + norm
    network = 2 * self.width * self.inner + self.inner + self.width + norm
    input_layer = POSITIONS[self.positions]().input_layer
    places = 2 * self.width * getattr(input_layer, 'max_length', 0)  # learned ones, of both sides
    return self.depth * (3 * attention + 2 * network) + vocabulary_size * self.width + places

  def scaled(self, depth: int, width: int) -> 'TransformerPreset':
    """The row with its proportions kept, where base has this depth and width; heads stay."""
    ratio = width / BASE.width
    sizes = ('width', 'inner', 'key_width', 'value_width')
    return dataclasses.replace(
      self,
      depth=max(1, round(self.depth * depth / BASE.depth)),
      **{name: max(1, round(getattr(self, name) * ratio)) for name in sizes},
    )


BASE = TransformerPreset()


def changed(**values) -> TransformerPreset:
  """Base with some values changed."""
  return dataclasses.replace(BASE, **values)


def divided(heads: int) -> TransformerPreset:
  """Base with another number of heads that share its width."""
  return changed(heads=heads, key_width=BASE.width // heads, value_width=BASE.width // heads)


TABLE_3 = {
  'base': BASE,
  'A: 1 head': divided(1),
  'A: 4 heads': divided(4),
  'A: 16 heads': divided(16),
  'A: 32 heads': divided(32),
  'B: d_k 16': changed(key_width=16),
  'B: d_k 32': changed(key_width=32),
  'C: 2 layers': changed(depth=2),
  'C: 4 layers': changed(depth=4),
  'C: 8 layers': changed(depth=8),
  'C: d_model 256': changed(width=256, key_width=32, value_width=32),
  'C: d_model 1024': changed(width=1024, key_width=128, value_width=128),
  'C: d_ff 1024': changed(inner=1024),
  'C: d_ff 4096': changed(inner=4096),
  'D: no dropout': changed(dropout=0.0),
  'D: dropout 0.2': changed(dropout=0.2),
  'D: no label smoothing': changed(label_smoothing=0.0),
  'D: label smoothing 0.2': changed(label_smoothing=0.2),
  'E: learned positions': changed(positions='learned'),
  'big': changed(width=1024, inner=4096, heads=16, dropout=0.3, steps=300_000),
}


def implied_vocabulary(preset: TransformerPreset, count: int) -> int:
  """The tokens with which a preset would have so many parameters."""
  return round((count - preset.parameters(0)) / preset.width)
