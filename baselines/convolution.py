"""Causal convolutions and temporal convolutional networks, computed for all tokens in parallel.

  Convolution       y_t = b + sum_j W_j x_{t - j d},  j = 0 .. k - 1     (kernel k, dilation d)
  ShortConvolution  y_t = b + sum_j w_j * x_{t - j} in each channel separately, as in the input
                    convolutions of linear recurrences
  TCN               levels i = 0 .. n - 1 of  relu(x + relu(conv(relu(conv(x))))) with dilation 2^i
                    and weight-normalized kernels                (Bai, Kolter and Koltun 2018)

An output depends on a receptive field of r tokens, r = 1 + (k - 1) d for a convolution and
r = 1 + 2 (k - 1) (2^n - 1) for a TCN. Earlier tokens have no influence at all.
"""

import itertools
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from baselines.causal_convolution import FORMS, depthwise_convolution, dilated_convolution
from transformer.bidirectional import Centred, make_bidirectional
from transformer.broadcasting import add_to_channels
from transformer.layer import SequenceLayer, apply_mask
from transformer.options import require_one_of, require_option_values_at_least

MIN_SQUARED_NORM = 1e-30  # of a kernel; the square root has no gradient at 0


def _inputs_and_next_state(state, x, reach):
  """The inputs of a convolution, including those in the state.

  Args:
    state: the latest inputs [B, reach, D] before x, or None if there are none.
    x: the new inputs [B, T, D].
    reach: the number of earlier tokens that an output depends on.

  Returns:
    The inputs, the next state [B, reach, D], and the number of zeros that precede the inputs.

  """
  length = x.shape[1]
  if state is not None:
    inputs = jnp.concatenate([state.astype(x.dtype), x], 1)
    return inputs, inputs[:, length:].astype(state.dtype), 0
  missing = max(0, reach - length)
  latest = jnp.pad(x[:, max(0, length - reach) :], ((0, 0), (missing, 0), (0, 0)))
  return x, latest, reach


class Convolution(SequenceLayer):
  """Causal convolution with kernel size k, dilation d and the last (k - 1) d inputs as state."""

  kernel_size: int = 4
  dilation: int = 1
  weight_norm: bool = False
  form: str = 'auto'

  filters_per_channel: ClassVar[int] = 1  # convolution channels per output channel
  # The variance of the convolution outputs at initialization, for inputs of variance 1.
  initial_variance: ClassVar[float] = 1.0

  def __post_init__(self):
    super().__post_init__()
    require_option_values_at_least(self, 1, 'kernel_size', 'dilation')
    require_one_of(self, 'form', FORMS)

  def output_activation(self, convolved):
    """Maps the convolution result [B, T, filters_per_channel * D] to the output [B, T, D]."""
    return convolved

  @property
  def bidirectional_version(self):
    return Centred(self, parent=None)

  @property
  def receptive_field(self):
    return 1 + (self.kernel_size - 1) * self.dilation

  @property
  def padding_occupies_positions(self):
    return self.receptive_field > 1

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    return jnp.zeros((batch_size, self.receptive_field - 1, width), dtype)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    width = x.shape[2]
    features = self.filters_per_channel * width
    initializer = nn.initializers.variance_scaling(
      self.initial_variance, 'fan_in', 'truncated_normal'
    )
    kernel = self.param('kernel', initializer, (self.kernel_size, width, features))
    if self.weight_norm:  # The weights of each output are a direction times a learned norm.
      square = jnp.sum(jnp.square(kernel), (0, 1), keepdims=True)
      norm = jnp.sqrt(jnp.maximum(square, MIN_SQUARED_NORM))
      kernel = kernel / norm * self.param('scale', lambda _: norm)
    bias = self.param('bias', nn.initializers.zeros, (features,))

    inputs, latest, num_zeros = _inputs_and_next_state(
      state, apply_mask(x, mask), (self.kernel_size - 1) * self.dilation)
    y = dilated_convolution(
      inputs, kernel.astype(x.dtype), self.dilation, self.form, padding=num_zeros)
    return self.output_activation(add_to_channels(y, bias.astype(x.dtype))), latest


class ShortConvolution(SequenceLayer):
  """Causal depthwise convolution of kernel size k, whose state is the last k - 1 inputs."""

  kernel_size: int = 4
  use_bias: bool = True

  def __post_init__(self):
    super().__post_init__()
    require_option_values_at_least(self, 1, 'kernel_size')

  @property
  def receptive_field(self):
    return self.kernel_size

  @property
  def padding_occupies_positions(self):
    return self.receptive_field > 1

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    return jnp.zeros((batch_size, self.kernel_size - 1, width), dtype)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    size, width = self.kernel_size, x.shape[2]
    kernel = self.param('kernel', nn.initializers.normal(size**-0.5), (size, width))
    inputs, latest, num_zeros = _inputs_and_next_state(state, apply_mask(x, mask), size - 1)
    y = depthwise_convolution(inputs, kernel.astype(x.dtype), num_zeros)
    if self.use_bias:
      bias = self.param('bias', nn.initializers.zeros, (width,))
      y = add_to_channels(y, bias.astype(x.dtype))
    return y, latest


class ConvolutionStack(SequenceLayer):
  """Base class of layers that apply `levels` residual blocks of convolutions in sequence.

  The state is the tuple of the states of all convolutions, in order of application.
  """

  kernel_size: int = 3
  levels: int = 3
  causal: bool = True  # False makes every convolution centred, for encoders
  form: str = 'auto'

  padding_occupies_positions: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    require_option_values_at_least(self, 1, 'kernel_size', 'levels')
    require_one_of(self, 'form', FORMS)

  def convolutions_of_block(self, block_index: int) -> tuple[Convolution, ...]:
    """The causal convolutions of residual block number `block_index`, in order of application."""
    raise TypeError(f'{type(self).__name__} must define convolutions_of_block')

  def residual_block(self, x: jax.Array, *convolutions) -> jax.Array:
    """Computes the output of a residual block that contains the given convolutions.

    Args:
      x: the input [B, T, D].
      *convolutions: the convolutions of the block, as functions of their input alone.

    Returns:
      The output [B, T, D].

    """
    raise TypeError(f'{type(self).__name__} must define residual_block')

  def inner_width(self, width: int) -> int:
    """The number of input channels of each convolution, given the width of the model."""
    return width

  def _causal_or_centred_convolutions(self, block_index):
    convolutions = self.convolutions_of_block(block_index)
    return convolutions if self.causal else tuple(map(make_bidirectional, convolutions))

  def _convolutions_of_all_blocks(self):
    for block_index in range(self.levels):
      yield from self._causal_or_centred_convolutions(block_index)

  @property
  def bidirectional_version(self):
    """The layer for an encoder, in which every convolution is centred instead of causal.

    Each convolution is centred separately, so that residual sums stay aligned.
    """
    return self.clone(causal=False)

  @property
  def receptive_field(self):
    return 1 + sum(layer.receptive_field - 1 for layer in self._convolutions_of_all_blocks())

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    width = self.inner_width(width)
    return tuple(
      layer.initial_state(batch_size, capacity, width, dtype)
      for layer in self._convolutions_of_all_blocks()
    )

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    # Without a state, the convolutions start from zeros that they need not store.
    before, after = itertools.repeat(None) if state is None else iter(state), []

    def make_stateful_convolution(convolution_layer, name):
      layer = convolution_layer.copy(name=name)

      def convolve_and_update_state(x):
        y, latest = layer(x, next(before), mask=mask, train=train)
        after.append(latest)
        return y

      return convolve_and_update_state

    x = apply_mask(x, mask)
    for block_index in range(self.levels):
      x = self.residual_block(x, *(
        make_stateful_convolution(layer, f'level_{block_index}_convolution_{index}')
        for index, layer in enumerate(self._causal_or_centred_convolutions(block_index))
      ))
    return x, tuple(after)


class TCN(ConvolutionStack):
  """Temporal convolutional network of residual blocks with two convolutions and doubling dilation.

  Each residual block ends in a ReLU of the residual sum, as in the authors' code, so no output is
  negative.
  """

  def convolutions_of_block(self, block_index):
    """Two convolutions of dilation 2^block_index for residual block number `block_index`."""
    return (Convolution(self.kernel_size, 2**block_index, True, self.form, parent=None),) * 2

  def residual_block(self, x, first_convolution, second_convolution):
    """Computes relu(x + relu(conv(relu(conv(x)))))."""
    y = jax.nn.relu(second_convolution(jax.nn.relu(first_convolution(x))))
    return jax.nn.relu(x + y)
