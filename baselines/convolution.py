"""Convolutional networks: all times in parallel, each seeing a window of the past.

  convolution    y_t = b + sum_j W_j x_{t - j d},  j = 0 .. k - 1     (kernel k, dilation d)
  short          y_t = b + sum_j w_j * x_{t - j}, each channel by itself: what linear recurrences
                 put before their gates
  TCN            levels i = 0 .. n - 1 of  x + relu(conv(relu(conv(x)))), dilation 2^i,
                 the kernels weight-normalised                        (Bai, Kolter, Koltun 2018)

A window of r tokens is all that an output can depend on: for a convolution r = 1 + (k - 1) d, for
a TCN r = 1 + 2 (k - 1) (2^n - 1). What happened earlier is not forgotten, it was never seen.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer.layer import SequenceLayer, masked

FORMS = ('auto', 'direct', 'unfolded')


def dilated_convolution(x: jax.Array, kernel: jax.Array, dilation: int, form: str = 'auto'):
  """Slides a kernel [k, D, F] over x [B, S, D] without padding: [B, S - (k - 1) d, F].

  Two forms, equal but for rounding. 'direct' is XLA's convolution; 'unfolded' lays the k shifted
  inputs side by side and makes one matrix product. On a CPU XLA's convolution is about ten times
  slower inside a compiled loop, which is where training runs, and no more than a quarter faster
  outside of one, so that 'auto' is 'unfolded' there and 'direct' elsewhere.
  """
  if form == 'auto':
    form = 'unfolded' if jax.default_backend() == 'cpu' else 'direct'
  if form == 'direct':
    return jax.lax.conv_general_dilated(
      x, kernel, (1,), 'VALID', rhs_dilation=(dilation,), dimension_numbers=('NWC', 'WIO', 'NWC')
    )
  size, channels, features = kernel.shape
  length = x.shape[1] - (size - 1) * dilation
  shifted = [x[:, j * dilation : j * dilation + length] for j in range(size)]
  return jnp.concatenate(shifted, -1) @ kernel.reshape(size * channels, features)


def depthwise_convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Slides a kernel [k, D] over x [B, S, D], each channel by itself, without padding.

  Shifted and multiplied: XLA's own depthwise convolution is many times slower on a CPU, and no
  better elsewhere for the few taps that there are. [B, S - k + 1, D].
  """
  size = kernel.shape[0]
  length = x.shape[1] - size + 1
  return sum(x[:, j : j + length] * kernel[j][None, None] for j in range(size))


def _check(kernel_size, form, **positive):
  for name, value in dict(kernel_size=kernel_size, **positive).items():
    if value < 1:
      raise ValueError(f'a convolution needs {name} >= 1, not {value}')
  if form not in FORMS:
    raise ValueError(f'no form {form!r} of convolution; there are {", ".join(FORMS)}')


class Convolution(SequenceLayer):
  """A causal convolution; its state is the (k - 1) d latest inputs."""

  kernel_size: int = 4
  dilation: int = 1
  weight_norm: bool = False
  form: str = 'auto'

  def __post_init__(self):
    super().__post_init__()
    _check(self.kernel_size, self.form, dilation=self.dilation)

  @property
  def receptive_field(self):
    """1 + (k - 1) d."""
    return 1 + (self.kernel_size - 1) * self.dilation

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Zeros stand before the first token."""
    return jnp.zeros((batch_size, self.receptive_field - 1, width), dtype)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    if state is None:
      state = self.initial_state(batch_size, length, width, x.dtype)
    shape = (self.kernel_size, width, width)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    if self.weight_norm:  # each output's weights as a direction and a length
      norm = jnp.sqrt(jnp.sum(jnp.square(kernel), (0, 1), keepdims=True))
      kernel = kernel / norm * self.param('scale', lambda _: norm)
    bias = self.param('bias', nn.initializers.zeros, (width,))

    read = jnp.concatenate([state.astype(x.dtype), masked(x, mask)], 1)
    y = dilated_convolution(read, kernel.astype(x.dtype), self.dilation, self.form)
    latest = read[:, length:].astype(state.dtype)
    return y + bias.astype(x.dtype)[None, None], latest


class ShortConvolution(SequenceLayer):
  """A causal convolution of each channel by itself; its state is the k - 1 latest inputs."""

  kernel_size: int = 4
  use_bias: bool = True

  def __post_init__(self):
    super().__post_init__()
    _check(self.kernel_size, 'auto')

  @property
  def receptive_field(self):
    """The kernel."""
    return self.kernel_size

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


class TCN(SequenceLayer):
  """Temporal convolutional network: residual blocks of two convolutions, dilation doubling."""

  kernel_size: int = 3
  levels: int = 3
  form: str = 'auto'

  convolutions_per_level: ClassVar[int] = 2

  def __post_init__(self):
    super().__post_init__()
    _check(self.kernel_size, self.form, levels=self.levels)

  @property
  def receptive_field(self):
    """1 + 2 (k - 1) (2^n - 1)."""
    return 1 + self.convolutions_per_level * (self.kernel_size - 1) * (2**self.levels - 1)

  def _convolutions(self):
    for level in range(self.levels):
      for which in range(self.convolutions_per_level):
        name = f'level_{level}_convolution_{which}'
        yield name, Convolution(self.kernel_size, 2**level, True, self.form, parent=None)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """One for each convolution."""
    return tuple(
      layer.initial_state(batch_size, capacity, width, dtype) for _, layer in self._convolutions()
    )

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    states, residual = [], masked(x, mask)
    y = residual
    for i, (name, template) in enumerate(self._convolutions()):
      below = None if state is None else state[i]
      y, after = template.copy(name=name)(y, below, mask=mask, train=train)
      y = jax.nn.relu(y)
      states.append(after)
      if i % self.convolutions_per_level == self.convolutions_per_level - 1:
        y = residual = jax.nn.relu(residual + y)
    return y, tuple(states)
