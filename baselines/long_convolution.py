"""Hyena, which alternates gates and convolutions whose kernels are as long as the sequence.

  v, x^1, ..., x^N = short convolutions of projections of the input
  z^1 = v,   z^{n+1}_t = x^n_t * (sum_s h^n_{t - s} z^n_s + b^n z^n_t),   y = projection of z^{N+1}
  h_t = exp(-a t / L) * network(t / L, cos(2 pi f t / L), -sin(2 pi f t / L)),   f = 0, 1, 2, ...

The equations are 4 and 7 of Poli et al. 2023, with the filter skip b of the authors' code, which
omits the first of the N convolutions. The network has sine activations. The decay rate a increases
over the channels from slow to fast decay. The distance t between output and input is counted in
tokens, and L = max_length is only its unit. A filter is therefore the same for all sequence lengths
and defined beyond L too.

A Fourier transform of all tokens at once would let future tokens affect earlier outputs through
rounding errors. Here every output is a sum over earlier inputs alone. Within blocks the sum is a
product with a triangular Toeplitz matrix. Blocks are then combined in pairs, pairs in pairs of
pairs and so on, and a transform of each first half alone gives its contribution to the second half.
The cost is O(T log(T)^2), and the result is exactly causal.
"""

import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from baselines.convolution import ShortConvolution
from transformer.dense import Dense, DenseGeneral
from transformer.layer import SequenceLayer, apply_mask
from transformer.options import require_option_values_at_least

# The slowest and the fastest filter decay to 1 % at these distances, as multiples of max_length.
SLOWEST_WINDOW, FASTEST_WINDOW = 1.5, 0.3


def triangular_toeplitz(kernel: jax.Array) -> jax.Array:
  """Toeplitz matrices [D, T, T] with kernel[:, t - s] in row s and column t, and 0 where t < s."""
  width, length = kernel.shape
  # A sequence of period 2 T is reshaped into rows of 2 T - 1 numbers.
  # Each row is therefore shifted by one position relative to the previous row.
  period = jnp.pad(kernel, ((0, 0), (0, length)))
  periods = jnp.broadcast_to(period[:, None], (width, length, 2 * length)).reshape(width, -1)
  rows = periods[:, : length * (2 * length - 1)].reshape(width, length, 2 * length - 1)
  return rows[:, :, :length]


def _contribution_to_next_block(x, kernel):
  """Computes the contribution of each block of n inputs to the n outputs that follow the block.

  The shape of x is [D, number of blocks, n]. The contributions involve the input-output distances
  1 .. 2 n - 1.
  """
  size = x.shape[-1]
  spectrum = jnp.fft.rfft(x, 2 * size) * jnp.fft.rfft(kernel[:, : 2 * size])[:, None]
  return jnp.fft.irfft(spectrum, 2 * size)[..., size:]


def long_convolution(x: jax.Array, kernel: jax.Array, block_size: int = 64) -> jax.Array:
  """Computes the causal convolution y_t = sum_{s <= t} kernel_{t - s} x_s with a long kernel.

  Later inputs do not change y_t even by rounding errors.

  Args:
    x: the input [B, T, D], float32.
    kernel: [T, D], a separate kernel for each channel.
    block_size: the largest block, in tokens, that is computed as a matrix product. Longer blocks
      are halved.

  Returns:
    The outputs y [B, T, D].

  Examples:
    A kernel of ones gives the cumulative sum:

    >>> import jax.numpy as jnp
    >>> from baselines.long_convolution import long_convolution
    >>> y = long_convolution(jnp.ones((1, 6, 2)), jnp.ones((6, 2)), block_size=2)
    >>> y.shape
    (1, 6, 2)
    >>> [round(float(value), 3) for value in y[0, :, 0]]
    [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]

  """
  length, width = x.shape[1:]
  levels = max(0, math.ceil(math.log2(length / block_size)))
  block = -(-length // 2**levels)
  padding = block * 2**levels - length
  x = jnp.pad(x.transpose(2, 0, 1), ((0, 0), (0, 0), (0, padding)))
  kernel = jnp.pad(kernel.T, ((0, 0), (0, padding)))

  blocks = x.reshape(width, -1, block)
  y = (blocks @ triangular_toeplitz(kernel[:, :block])).reshape(x.shape)
  for level in range(levels):
    size = block * 2**level
    pairs = x.reshape(width, -1, 2, size)
    second_half = _contribution_to_next_block(pairs[:, :, 0], kernel)
    # The sum is updated in place. XLA would otherwise keep the terms of all levels: a training step
    # with two Hyena layers and one sequence of 16,384 tokens took 386 instead of 293 MiB
    # (`experiments.parallelism --preset=layers --layers=hyena --lengths=16384`).
    y = y.reshape(pairs.shape)
    updated = y[:, :, 1:] + second_half[:, :, None]
    y = jax.lax.dynamic_update_slice_in_dim(y, updated, 1, 2).reshape(x.shape)
  return y[..., :length].transpose(1, 2, 0)


def convolve_stored_inputs_with_kernel(memory, kernel, index, length, block_size=64):
  """Computes the contributions of stored inputs to the convolution outputs at later positions.

  Args:
    memory: the inputs [B, S, D], float32, zero from `index` on.
    kernel: [S, D], a separate kernel for each channel.
    index: [], the number of stored tokens; `index` + `length` is at most S.
    length: T, the number of outputs.
    block_size: the largest number of outputs that are computed as direct sums. More outputs are
      computed by a single Fourier transform.

  Returns:
    The contributions [B, T, D] to the outputs at positions `index` .. `index` + T - 1.

  """
  capacity = memory.shape[1]
  if length > block_size:
    # The wrap-around of the cyclic convolution only affects outputs before `index`.
    spectrum = jnp.fft.rfft(memory, axis=1) * jnp.fft.rfft(kernel, axis=0)[None]
    y = jnp.fft.irfft(spectrum, capacity, 1)
    return jax.lax.dynamic_slice_in_dim(y, index, length, 1)
  lagged = jnp.pad(kernel[::-1], ((0, capacity), (0, 0)))  # row S - 1 - t + s is kernel_{t - s}

  def kernel_entries_for_output(position):
    return jax.lax.dynamic_slice_in_dim(lagged, capacity - 1 - position, capacity)

  kernels = jax.vmap(kernel_entries_for_output)(index + jnp.arange(length))
  return jnp.einsum('TSD,BSD->BTD', kernels, memory)


class HyenaState(NamedTuple):
  """State of a Hyena layer with a capacity of S tokens."""

  short: jax.Array  # [B, k - 1, (N + 1) D], the latest projections
  inputs: tuple[jax.Array, ...]  # [B, S, D], the inputs of each of the N long convolutions
  index: jax.Array  # [], the number of tokens so far


class ImplicitFilters(nn.Module):
  """A network that maps the distance of two positions to the values of N convolution filters."""

  order: int
  width: int
  max_length: int
  filter_width: int
  num_frequencies: int
  sine_frequency: float

  @nn.compact
  def __call__(self, length: int) -> jax.Array:  # [T, N, D]
    """Computes the filters at the input-output distances from 0 to T - 1 in float32."""
    time = jnp.arange(length)[:, None] / self.max_length
    angle = 2 * jnp.pi * time * jnp.arange(self.num_frequencies)[None]
    hidden = jnp.concatenate([time, jnp.cos(angle), -jnp.sin(angle)], -1)
    for _ in range(3):
      hidden = jnp.sin(self.sine_frequency * Dense(self.filter_width)(hidden))
    value = DenseGeneral((self.order, self.width), use_bias=False)(hidden)
    decay = math.log(100) / jnp.linspace(SLOWEST_WINDOW, FASTEST_WINDOW, self.width)
    return value * jnp.exp(-decay[None] * time)[:, None]


class Hyena(SequenceLayer):
  """Hyena, with N long convolutions, each followed by an elementwise gate.

  The state stores all inputs of the long convolutions. Padding counts as zeros that take up
  positions, as in any convolution.
  """

  order: int = 2
  short_kernel_size: int = 3
  max_length: int = 1024
  filter_width: int = 32
  num_frequencies: int = 8
  # With a sine_frequency of 10, the filters resemble noise and have float32 errors of 1e-4.
  sine_frequency: float = 3.0
  block_size: int = 64

  padding_occupies_positions: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    require_option_values_at_least(
      self, 1, 'order', 'short_kernel_size', 'max_length', 'filter_width', 'num_frequencies',
      'block_size',
    )
    if not 0 < self.sine_frequency < math.inf:
      raise ValueError(f'Hyena needs a sine_frequency above 0, not {self.sine_frequency}')

  def _short_convolution(self, **options):
    return ShortConvolution(self.short_kernel_size, **options)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Returns a state of zeros that can store `capacity` inputs of each long convolution."""
    short = self._short_convolution(parent=None)
    return HyenaState(
      short.initial_state(batch_size, capacity, (self.order + 1) * width, dtype),
      (jnp.zeros((batch_size, capacity, width), dtype),) * self.order,
      jnp.zeros((), jnp.int32),
    )

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    length, width = x.shape[1:]
    project = Dense((self.order + 1) * width, dtype=x.dtype, name='projection')
    projected, short = self._short_convolution(name='short')(
      project(apply_mask(x, mask)), None if state is None else state.short, mask=mask
    )
    z, *gates = jnp.split(projected, self.order + 1, -1)

    capacity = length if state is None else state.inputs[0].shape[1]
    kernel = ImplicitFilters(
      self.order, width, self.max_length, self.filter_width, self.num_frequencies,
      self.sine_frequency, name='filter',
    )(capacity)
    skip = self.param('skip', nn.initializers.normal(1.0), (self.order, width))
    kernel = kernel.at[:1].add(skip[None])
    before = (None,) * self.order if state is None else state.inputs
    index = 0 if state is None else state.index
    after = []
    for n, gate in enumerate(gates):
      memory, y = self._convolve_and_store(apply_mask(z, mask), kernel[:, n], before[n], index)
      after.append(memory)
      z = gate * y.astype(x.dtype)
    index = jnp.int32(index + length)
    # If more tokens than the capacity are processed, the output is NaN instead of a wrong number.
    z = jnp.where(index <= capacity, z, jnp.nan)
    y = Dense(width, dtype=x.dtype, name='output')(z)
    return y, HyenaState(short, tuple(after), index)

  def _convolve_and_store(self, z, kernel, memory, index):
    """Stores the inputs z [B, T, D] and returns all stored inputs and the convolution outputs."""
    length = z.shape[1]
    if not length:
      return (z if memory is None else memory), z.astype(jnp.float32)
    y = long_convolution(z.astype(jnp.float32), kernel[:length], self.block_size)
    if memory is None:
      return z, y
    stored = memory.astype(jnp.float32)
    y += convolve_stored_inputs_with_kernel(stored, kernel, index, length, self.block_size)
    return jax.lax.dynamic_update_slice_in_dim(memory, z.astype(memory.dtype), index, 1), y
