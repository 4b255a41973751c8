"""Convolutional networks: all times in parallel, each seeing a window of the past.

  convolution    y_t = b + sum_j W_j x_{t - j d},  j = 0 .. k - 1     (kernel k, dilation d)
  short          y_t = b + sum_j w_j * x_{t - j}, each channel by itself: what linear recurrences
                 put before their gates
  TCN            levels i = 0 .. n - 1 of  relu(x + relu(conv(relu(conv(x))))), dilation 2^i,
                 the kernels weight-normalised                        (Bai, Kolter, Koltun 2018)

A window of r tokens is all that an output can depend on: for a convolution r = 1 + (k - 1) d, for
a TCN r = 1 + 2 (k - 1) (2^n - 1). What happened earlier is not forgotten, it was never seen.
"""

import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer import platform
from transformer.bidirectional import Centred, bidirectional_of
from transformer.layer import SequenceLayer, masked
from transformer.options import at_least, one_of

FORMS = ('auto', 'direct', 'channels_last')
SMALLEST_SQUARE = 1e-30  # of a normalised kernel's length: at 0 its root would have no gradient


def _slide(x, kernel, dilation=1, padding=0, stride=1):
  """XLA's convolution, the channels last on all sides: [B, S, D] with [k, D, F] to [B, T, F]."""
  return jax.lax.conv_general_dilated(
    x, kernel, (stride,), [(padding, padding)], rhs_dilation=(dilation,),
    dimension_numbers=('NWC', 'WIO', 'NWC'),
  )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _channels_last(x, kernel, dilation):
  return _slide(x, kernel, dilation)


def _read(x, kernel, dilation):
  return _slide(x, kernel, dilation), (x, kernel)


def _gradients(dilation, read, gradient):
  x, kernel = read
  mirrored = kernel[::-1].swapaxes(1, 2)  # [k, F, D]
  for_x = _slide(gradient, mirrored, dilation, padding=(len(kernel) - 1) * dilation)
  # The gradient slides over x with the batch as its channels: [D, S, B] with [T, B, F].
  for_kernel = _slide(x.transpose(2, 1, 0), gradient.swapaxes(0, 1), stride=dilation)
  return for_x, for_kernel.swapaxes(0, 1)


_channels_last.defvjp(_read, _gradients)


def dilated_convolution(x: jax.Array, kernel: jax.Array, dilation: int, form: str = 'auto'):
  """Slides a kernel [k, D, F] over x [B, S, D] without padding: [B, S - (k - 1) d, F].

  Two forms of the gradients, equal but for rounding. 'direct' leaves them to XLA; 'channels_last'
  writes them as two convolutions that are laid out as the first one is. On a CPU XLA has a fast
  convolution inside a compiled loop, which is where training runs, for that layout alone: the
  gradients that it derives are 20 to 150 times slower there. 'auto' is 'channels_last' on a CPU,
  where it is as fast in a loop as outside of one, and 'direct' elsewhere.
  """
  if x.shape[1] == (len(kernel) - 1) * dilation:  # no output: XLA's gradients need a window
    return jnp.zeros((x.shape[0], 0, kernel.shape[2]), x.dtype)
  if form == 'auto':
    form = 'channels_last' if platform.current() == 'cpu' else 'direct'
  slide = _channels_last if form == 'channels_last' else _slide
  return slide(x, kernel, dilation)


def depthwise_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Slides a kernel [k, D] over x [B, S, D], each channel by itself, without padding.

  Shifted and multiplied: XLA's own depthwise convolution is many times slower on a CPU, and no
  better elsewhere for the few taps that there are. [B, S - k + 1, D].
  """
  size = kernel.shape[0]
  length = x.shape[1] - size + 1
  return sum(x[:, j : j + length] * kernel[j][None, None] for j in range(size))


class Convolution(SequenceLayer):
  """A causal convolution; its state is the (k - 1) d latest inputs."""

  kernel_size: int = 4
  dilation: int = 1
  weight_norm: bool = False
  form: str = 'auto'

  products: ClassVar[int] = 1  # how many sums, each with its own kernel, make an output
  gain: ClassVar[float] = 1.0  # the variance of such a sum at the start, for inputs of variance 1

  def __post_init__(self):
    super().__post_init__()
    at_least(self, 1, 'kernel_size', 'dilation')
    one_of(self, 'form', FORMS)

  def combine(self, sums):
    """The output [B, T, D] of the sums [B, T, products * D]."""
    return sums

  @property
  def bidirectional(self):
    """Half of the window ahead."""
    return Centred(self, parent=None)

  @property
  def receptive_field(self):
    """1 + (k - 1) d."""
    return 1 + (self.kernel_size - 1) * self.dilation

  @property
  def padding_takes_time(self):
    """If there is a window."""
    return self.receptive_field > 1

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Zeros stand before the first token."""
    return jnp.zeros((batch_size, self.receptive_field - 1, width), dtype)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    if state is None:
      state = self.initial_state(batch_size, length, width, x.dtype)
    features = self.products * width
    initial = nn.initializers.variance_scaling(self.gain, 'fan_in', 'truncated_normal')
    kernel = self.param('kernel', initial, (self.kernel_size, width, features))
    if self.weight_norm:  # each output's weights as a direction and a length
      square = jnp.sum(jnp.square(kernel), (0, 1), keepdims=True)
      norm = jnp.sqrt(jnp.maximum(square, SMALLEST_SQUARE))
      kernel = kernel / norm * self.param('scale', lambda _: norm)
    bias = self.param('bias', nn.initializers.zeros, (features,))

    read = jnp.concatenate([state.astype(x.dtype), masked(x, mask)], 1)
    y = dilated_convolution(read, kernel.astype(x.dtype), self.dilation, self.form)
    latest = read[:, length:].astype(state.dtype)
    return self.combine(y + bias.astype(x.dtype)[None, None]), latest


class ShortConvolution(SequenceLayer):
  """A causal convolution of each channel by itself; its state is the k - 1 latest inputs."""

  kernel_size: int = 4
  use_bias: bool = True

  def __post_init__(self):
    super().__post_init__()
    at_least(self, 1, 'kernel_size')

  @property
  def receptive_field(self):
    """The kernel."""
    return self.kernel_size

  @property
  def padding_takes_time(self):
    """If there is a window."""
    return self.receptive_field > 1

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Zeros stand before the first token."""
    return jnp.zeros((batch_size, self.kernel_size - 1, width), dtype)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    if state is None:
      state = self.initial_state(batch_size, length, width, x.dtype)
    size = self.kernel_size
    kernel = self.param('kernel', nn.initializers.normal(size**-0.5), (size, width))
    read = jnp.concatenate([state.astype(x.dtype), masked(x, mask)], 1)
    y = depthwise_convolution(read, kernel.astype(x.dtype))
    if self.use_bias:
      y += self.param('bias', nn.initializers.zeros, (width,)).astype(x.dtype)[None, None]
    return y, read[:, length:].astype(state.dtype)


class ConvolutionStack(SequenceLayer):
  """Levels of convolutions; its state is the tuple of theirs, in the order in which they read."""

  kernel_size: int = 3
  levels: int = 3
  causal: bool = True  # or every convolution centred, as in an encoder
  form: str = 'auto'

  padding_takes_time: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    at_least(self, 1, 'kernel_size', 'levels')
    one_of(self, 'form', FORMS)

  def convolutions(self, level: int) -> tuple[Convolution, ...]:
    """The convolutions of a level, in the order in which they read."""
    raise TypeError(f'{type(self).__name__} does not say what convolves')

  def block(self, x: jax.Array, *convolve) -> jax.Array:
    """What a level makes of its input [B, T, D] with its convolutions, a function each."""
    raise TypeError(f'{type(self).__name__} does not say what it does with its convolutions')

  def inner_width(self, width: int) -> int:
    """The width at which the convolutions read."""
    return width

  def _level(self, level):
    parts = self.convolutions(level)
    return parts if self.causal else tuple(map(bidirectional_of, parts))

  def _convolutions(self):
    for level in range(self.levels):
      yield from self._level(level)

  @property
  def bidirectional(self):
    """Every convolution centred by itself, so that what is added to it stays in its place."""
    return self.clone(causal=False)

  @property
  def receptive_field(self):
    """What each convolution sees besides the token itself, added up, and the token itself."""
    return 1 + sum(layer.receptive_field - 1 for layer in self._convolutions())

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """One for each convolution."""
    width = self.inner_width(width)
    return tuple(
      layer.initial_state(batch_size, capacity, width, dtype) for layer in self._convolutions()
    )

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    if state is None:
      state = self.initial_state(x.shape[0], x.shape[1], x.shape[2], x.dtype)
    before, after = iter(state), []

    def reader(template, name):
      layer = template.copy(name=name)

      def convolve(x):
        y, latest = layer(x, next(before), mask=mask, train=train)
        after.append(latest)
        return y

      return convolve

    x = masked(x, mask)
    for level in range(self.levels):
      x = self.block(x, *(
        reader(template, f'level_{level}_convolution_{which}')
        for which, template in enumerate(self._level(level))
      ))
    return x, tuple(after)


class TCN(ConvolutionStack):
  """Temporal convolutional network: residual blocks of two convolutions, dilation doubling.

  Each level ends in a ReLU of the sum, as in the authors' code: no output is below 0.
  """

  def convolutions(self, level):
    """Two of the same dilation 2^i."""
    return (Convolution(self.kernel_size, 2**level, True, self.form, parent=None),) * 2

  def block(self, x, first, second):
    """relu(x + relu(conv(relu(conv(x)))))."""
    y = jax.nn.relu(second(jax.nn.relu(first(x))))
    return jax.nn.relu(x + y)
