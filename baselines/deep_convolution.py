"""ByteNet and ConvS2S, deep residual stacks of convolutions for machine translation.

  ByteNet   x + W_2 relu(norm(conv(relu(norm(W_1 relu(norm(x)))))))
            W_1 halves the width and W_2 restores it. The dilation doubles, 1, 2, 4, ..., up to a
            maximum and then restarts at 1         (Kalchbrenner et al. 2016, "Neural Machine
            Translation in Linear Time", section 3.5 and figure 3, left: the decoder's block)
  ConvS2S   sqrt(1/2) (x + a * sigmoid(b)),  [a, b] = conv(x)
            a gated linear unit with weight-normalized kernels and without dilation
                                                    (Gehring et al. 2017, sections 3.2 and 3.5)

The norms are over the channels of a single token, as exact causality requires. A stack of n levels
with kernel k has a receptive field of 1 + (k - 1) (d_1 + ... + d_n) tokens.
"""

from typing import ClassVar

import jax

from baselines.activations import gated_linear_unit
from baselines.convolution import Convolution, ConvolutionStack
from transformer.dense import Dense
from transformer.normalization import LayerNorm
from transformer.options import check_width


class ByteNet(ConvolutionStack):
  """ByteNet, a stack of residual blocks with dilated convolutions of half the model width."""

  levels: int = 5  # a set of 5 levels has the dilations 1 to 16; the paper has six sets
  max_dilation: int = 16

  def __post_init__(self):
    super().__post_init__()
    if self.max_dilation < 1 or self.max_dilation & (self.max_dilation - 1):
      raise ValueError(f'ByteNet needs a power of 2 as max_dilation, not {self.max_dilation}')

  @property
  def required_width_divisor(self):
    return 2

  def inner_width(self, width):
    """Half of the model width, so the model width must be even."""
    check_width(self, width)
    return width // 2

  def convolutions_of_block(self, block_index):
    """A convolution whose dilation doubles per block up to `max_dilation` and restarts at 1."""
    dilation = 2 ** (block_index % self.max_dilation.bit_length())
    return (Convolution(self.kernel_size, dilation, form=self.form, parent=None),)

  def residual_block(self, x, convolution):
    def normalize_and_activate(x):
      return jax.nn.relu(LayerNorm(dtype=x.dtype)(x))

    width = x.shape[-1]
    y = Dense(self.inner_width(width), dtype=x.dtype)(normalize_and_activate(x))
    y = convolution(normalize_and_activate(y))
    return x + Dense(width, dtype=x.dtype)(normalize_and_activate(y))


class GatedConvolution(Convolution):
  """A convolution with a gated linear unit, a * sigmoid(b) with [a, b] = conv(x)."""

  filters_per_channel: ClassVar[int] = 2
  # Initial gates near 1/2 divide the variance by 4, and this factor of 4 compensates for them.
  initial_variance: ClassVar[float] = 4.0

  def output_activation(self, convolved):
    """Computes a * sigmoid(b) for the two halves a and b of the channels."""
    return gated_linear_unit(convolved)


class ConvS2S(ConvolutionStack):
  """ConvS2S, a stack of gated convolutions with residual sums scaled by sqrt(1/2).

  The kernels are weight-normalized. The factor sqrt(1/2) keeps the variance of the residual sums.
  """

  levels: int = 4

  def convolutions_of_block(self, block_index):
    """A tuple of a single convolution, which is gated and weight-normalized."""
    return (GatedConvolution(self.kernel_size, weight_norm=True, form=self.form, parent=None),)

  def residual_block(self, x, convolution):
    """Computes sqrt(1/2) (x + conv(x)), where conv is a gated convolution."""
    return 0.5**0.5 * (x + convolution(x))
