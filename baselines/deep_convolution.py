"""Convolutional networks that translated: many levels, each a small step of a residual sum.

  ByteNet   x + W_2 relu(norm(conv(relu(norm(W_1 relu(norm(x)))))))
            W_1 halves the width, W_2 doubles it again; the dilation goes 1, 2, 4, ... up to a
            maximum and starts again               (Kalchbrenner et al. 2016, "Neural Machine
            Translation in Linear Time", section 3.5 and figure 3, left: the decoder's block)
  ConvS2S   sqrt(1/2) (x + a * sigmoid(b)),  [a, b] = conv(x)
            a gated linear unit; the kernels are weight-normalised, there is no dilation
                                                    (Gehring et al. 2017, sections 3.2 and 3.5)

The norms are over the channels of one token, as exact causality wants. A stack of n levels with
kernel k sees 1 + (k - 1) (d_1 + ... + d_n) tokens.
"""

from typing import ClassVar

import jax
from flax import linen as nn

from baselines.convolution import Convolution, ConvolutionStack
from transformer.normalization import LayerNorm
from transformer.options import suits


class ByteNet(ConvolutionStack):
  """Residual blocks of half the width around a dilated convolution, with layer norms and ReLU."""

  levels: int = 5  # a set of 5 has the dilations 1 to 16; the paper has six sets
  max_dilation: int = 16

  def __post_init__(self):
    super().__post_init__()
    if self.max_dilation < 1 or self.max_dilation & (self.max_dilation - 1):
      raise ValueError(f'ByteNet needs a power of 2 as max_dilation, not {self.max_dilation}')

  @property
  def width_multiple(self):
    """Two halves."""
    return 2

  def inner_width(self, width):
    """Half; a ValueError if there is none."""
    suits(self, width)
    return width // 2

  def convolutions(self, level):
    """One, with the dilation of this place in its set."""
    dilation = 2 ** (level % self.max_dilation.bit_length())
    return (Convolution(self.kernel_size, dilation, form=self.form, parent=None),)

  def block(self, x, convolve):
    """The equation above."""
    def activated(x):
      return jax.nn.relu(LayerNorm(dtype=x.dtype)(x))

    width = x.shape[-1]
    y = nn.Dense(self.inner_width(width), dtype=x.dtype)(activated(x))
    return x + nn.Dense(width, dtype=x.dtype)(activated(convolve(activated(y))))


class GatedConvolution(Convolution):
  """A convolution whose outputs come with gates, one each: a * sigmoid(b), [a, b] = conv(x)."""

  products: ClassVar[int] = 2
  gain: ClassVar[float] = 4.0  # a gate that is half open leaves a quarter of a sum's variance

  def combine(self, sums):
    """The gated linear unit (Dauphin et al. 2017)."""
    return nn.glu(sums)


class ConvS2S(ConvolutionStack):
  """Gated convolutions, each added to its input, the variance kept by sqrt(1/2)."""

  levels: int = 4

  def convolutions(self, level):
    """One, weight-normalised."""
    return (GatedConvolution(self.kernel_size, weight_norm=True, form=self.form, parent=None),)

  def block(self, x, convolve):
    """The equation above."""
    return 0.5**0.5 * (x + convolve(x))
