"""The base and big models of "Attention is all you need" and all variations in its Table 3.

A preset consists of the hyper-parameters of a row. `build_model` builds the encoder and decoder of
the paper exactly, with post-norm, sinusoidal positions, one matrix for both embeddings and the
output, scaled by sqrt(d_model) in the embeddings, no biases in attention, and dropout on the output
of every sub-layer and on the sums of embeddings and positions.

Many codebases use pre-norm under these names. Here pre-norm is explicit,
`build_model(vocabulary_size, norm='pre')`.

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
  """The hyper-parameters of one Transformer, by default those of the base model."""

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

  def build_model(self, vocabulary_size: int = VOCABULARY, norm: str = 'post', dtype=jnp.float32):
    """Builds the encoder-decoder model with these hyper-parameters.

    Args:
      vocabulary_size: the number of tokens shared by source and target.
      norm: 'post' as in the paper, or 'pre'.
      dtype: the dtype of activations.

    Returns:
      An `EncoderDecoder`.

    """
    widths = {'key_width': self.key_width, 'value_width': self.value_width}
    attention = Attention(self.heads, POSITIONS[self.positions](), **widths)
    feedforward = FeedForward('relu', self.inner / self.width)

    def build_stack(layers):
      blocks = (Block(layer, norm=norm, dropout=self.dropout) for layer in layers)
      return Stack(tuple(blocks), self.depth)

    return EncoderDecoder(
      embedding=tied_embedding(vocabulary_size, self.width),
      encoder=build_stack((attention.bidirectional_version, feedforward)),
      decoder=build_stack((attention, CrossAttention(self.heads, **widths), feedforward)),
      normalization=LayerNorm() if norm == 'pre' else None,
      dropout=self.dropout,
      dtype=dtype,
    )

  def count_parameters(self, vocabulary_size: int = VOCABULARY) -> int:
    """Computes the number of trained parameters of `build_model` from a formula.

    A layer of the encoder has one attention and a layer of the decoder two. Each of them also has
    a feed-forward network. Each attention and each network has a norm.
    """
    norm = 2 * self.width
    attention = 2 * self.width * self.heads * (self.key_width + self.value_width) + norm
    network = 2 * self.width * self.inner + self.inner + self.width + norm
    input_layer = POSITIONS[self.positions]().input_layer
    max_length = getattr(input_layer, 'max_length', 0)  # 0 unless positions are learned
    positions = 2 * self.width * max_length  # in the encoder and in the decoder
    layers = self.depth * (3 * attention + 2 * network)
    return layers + vocabulary_size * self.width + positions

  def rescale_for_new_base_size(
    self, new_base_depth: int, new_base_width: int
  ) -> 'TransformerPreset':
    """Scales depth and widths by the factors that give the base model the given depth and width.

    The depth is multiplied by new_base_depth / BASE.depth, and all widths are
    multiplied by new_base_width / BASE.width. The number of heads remains unchanged.
    """
    ratio = new_base_width / BASE.width
    sizes = ('width', 'inner', 'key_width', 'value_width')
    return dataclasses.replace(
      self,
      depth=max(1, round(self.depth * new_base_depth / BASE.depth)),
      **{name: max(1, round(getattr(self, name) * ratio)) for name in sizes},
    )


BASE = TransformerPreset()


def base_preset_with_heads(num_heads: int) -> TransformerPreset:
  """Returns the base preset with another number of heads, which share the width equally."""
  head_width = BASE.width // num_heads
  return TransformerPreset(heads=num_heads, key_width=head_width, value_width=head_width)


TABLE_3 = {
  'base': BASE,
  'A: 1 head': base_preset_with_heads(1),
  'A: 4 heads': base_preset_with_heads(4),
  'A: 16 heads': base_preset_with_heads(16),
  'A: 32 heads': base_preset_with_heads(32),
  'B: d_k 16': TransformerPreset(key_width=16),
  'B: d_k 32': TransformerPreset(key_width=32),
  'C: 2 layers': TransformerPreset(depth=2),
  'C: 4 layers': TransformerPreset(depth=4),
  'C: 8 layers': TransformerPreset(depth=8),
  'C: d_model 256': TransformerPreset(width=256, key_width=32, value_width=32),
  'C: d_model 1024': TransformerPreset(width=1024, key_width=128, value_width=128),
  'C: d_ff 1024': TransformerPreset(inner=1024),
  'C: d_ff 4096': TransformerPreset(inner=4096),
  'D: no dropout': TransformerPreset(dropout=0.0),
  'D: dropout 0.2': TransformerPreset(dropout=0.2),
  'D: no label smoothing': TransformerPreset(label_smoothing=0.0),
  'D: label smoothing 0.2': TransformerPreset(label_smoothing=0.2),
  'E: learned positions': TransformerPreset(positions='learned'),
  'big': TransformerPreset(width=1024, inner=4096, heads=16, dropout=0.3, steps=300_000),
}


def infer_vocabulary_size(preset: TransformerPreset, num_parameters: int) -> int:
  """Returns the vocabulary size at which the model of a preset has `num_parameters` parameters."""
  return round((num_parameters - preset.count_parameters(0)) / preset.width)
