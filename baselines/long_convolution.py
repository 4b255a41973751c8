"""Hyena: gates and convolutions that are as long as the sequence, by turns.

  v, x^1, ..., x^N = short convolutions of projections of the input
  z^1 = v,   z^{n+1}_t = x^n_t * (sum_s h^n_{t - s} z^n_s + b^n z^n_t),   y = projection of z^{N+1}
  h_t = exp(-a t / L) * network(t / L, cos(2 pi f t / L), -sin(2 pi f t / L)),   f = 0, 1, 2, ...

(Poli et al. 2023, equations 4 and 7, with the filters' skip b of their code, which leaves out the
first of the N convolutions.) The network has sine activations; a goes over the channels from a slow
to a fast decay. Lag t is counted in tokens and L = max_length is only the unit that it is given in,
so that a filter is the same for all lengths of the sequence and has values beyond L too.

A Fourier transform of the whole sequence would let the future into the past, by rounding errors.
Here an output is a sum of earlier inputs alone: within blocks a product with a triangular Toeplitz
matrix; and blocks in pairs, pairs in pairs of pairs and so on, each first half onto its second by
a transform of the first half only. That is O(T log(T)^2) and causal to the last bit.
"""

import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from baselines.convolution import ShortConvolution
from transformer.layer import SequenceLayer, masked
from transformer.options import at_least

SLOW, FAST = 1.5, 0.3  # in units of L: where the slowest and the fastest window are down to 1 %


def toeplitz(kernel: jax.Array) -> jax.Array:
  """The matrices [D, T, T] with kernel[:, t - s] [D, T] in row s and column t, 0 where t < s."""
  width, length = kernel.shape
  # Rows of 2 T - 1 numbers cut from a text of period 2 T: each starts one place further left.
  period = jnp.pad(kernel, ((0, 0), (0, length)))
  text = jnp.broadcast_to(period[:, None], (width, length, 2 * length)).reshape(width, -1)
  rows = text[:, : length * (2 * length - 1)].reshape(width, length, 2 * length - 1)
  return rows[:, :, :length]


def _onto_the_next(x, kernel):
  """What blocks x [D, B, n] add to the n outputs after each, by lags 1 .. 2 n - 1 of a kernel."""
  size = x.shape[-1]
  spectrum = jnp.fft.rfft(x, 2 * size) * jnp.fft.rfft(kernel[:, : 2 * size])[:, None]
  return jnp.fft.irfft(spectrum, 2 * size)[..., size:]


def long_convolution(x: jax.Array, kernel: jax.Array, block_size: int = 64) -> jax.Array:
  """y_t = sum over s <= t of kernel_{t - s} x_s, exactly causal.

  Args:
    x: [B, T, D], float32.
    kernel: [T, D], each channel's own.
    block_size: up to how many tokens a block is a matrix product; longer ones are halved.

  Returns:
    [B, T, D].

  """
  length, width = x.shape[1:]
  levels = max(0, math.ceil(math.log2(length / block_size)))
  block = -(-length // 2**levels)
  room = block * 2**levels - length
  x = jnp.pad(x.transpose(2, 0, 1), ((0, 0), (0, 0), (0, room)))
  kernel = jnp.pad(kernel.T, ((0, 0), (0, room)))

  blocks = x.reshape(width, -1, block)
  y = (blocks @ toeplitz(kernel[:, :block])).reshape(x.shape)
  for level in range(levels):
    size = block * 2**level
    pairs = x.reshape(width, -1, 2, size)
    later = _onto_the_next(pairs[:, :, 0], kernel)
    y += jnp.pad(later[:, :, None], ((0, 0), (0, 0), (1, 0), (0, 0))).reshape(y.shape)
  return y[..., :length].transpose(1, 2, 0)


def from_memory(memory, kernel, index, length, block_size=64):
  """What the tokens before `index` add to the `length` outputs from there on: [B, T, D].

  Args:
    memory: [B, S, D], float32, with zeros from `index` on.
    kernel: [S, D].
    index: [] how many tokens were read; with `length` no more than S.
    length: T.
    block_size: up to how many outputs are sums one by one; more come from one transform.

  """
  capacity = memory.shape[1]
  if length > block_size:  # a cyclic sum: what goes round comes out before `index`
    spectrum = jnp.fft.rfft(memory, axis=1) * jnp.fft.rfft(kernel, axis=0)[None]
    y = jnp.fft.irfft(spectrum, capacity, 1)
    return jax.lax.dynamic_slice_in_dim(y, index, length, 1)
  lagged = jnp.pad(kernel[::-1], ((0, capacity), (0, 0)))  # row S - 1 - t + s is kernel_{t - s}

  def at(time):
    return jax.lax.dynamic_slice_in_dim(lagged, capacity - 1 - time, capacity)

  return jnp.einsum('TSD,BSD->BTD', jax.vmap(at)(index + jnp.arange(length)), memory)


class Past(NamedTuple):
  """Hyena's memory, with room for S tokens."""

  short: jax.Array  # [B, k - 1, (N + 1) D] the latest projections
  inputs: tuple[jax.Array, ...]  # [B, S, D] what each of the N long convolutions has read
  index: jax.Array  # [] how many tokens were read


class Filters(nn.Module):
  """The filters of N long convolutions as a function of the lag."""

  order: int
  width: int
  max_length: int
  filter_width: int
  num_frequencies: int
  sine_frequency: float

  @nn.compact
  def __call__(self, length: int) -> jax.Array:  # [T, N, D]
    """The values at the lags 0 .. T - 1, in float32."""
    time = jnp.arange(length)[:, None] / self.max_length
    angle = 2 * jnp.pi * time * jnp.arange(self.num_frequencies)[None]
    hidden = jnp.concatenate([time, jnp.cos(angle), -jnp.sin(angle)], -1)
    for _ in range(3):
      hidden = jnp.sin(self.sine_frequency * nn.Dense(self.filter_width)(hidden))
    value = nn.DenseGeneral((self.order, self.width), use_bias=False)(hidden)
    decay = math.log(100) / jnp.linspace(SLOW, FAST, self.width)
    return value * jnp.exp(-decay[None] * time)[:, None]


class Hyena(SequenceLayer):
  """N gates and N long convolutions by turns; the memory is all that the convolutions have read.

  Padding holds no value but takes its time, as in any convolution.
  """

  order: int = 2
  short_kernel_size: int = 3
  max_length: int = 1024
  filter_width: int = 32
  num_frequencies: int = 8
  sine_frequency: float = 3.0  # at 10 a filter is noise from lag to lag, and off by 1e-4 in float32
  block_size: int = 64

  padding_takes_time: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    at_least(
      self, 1, 'order', 'short_kernel_size', 'max_length', 'filter_width', 'num_frequencies',
      'block_size',
    )
    if not 0 < self.sine_frequency < math.inf:
      raise ValueError(f'Hyena needs a sine_frequency above 0, not {self.sine_frequency}')

  def _short(self, **options):
    return ShortConvolution(self.short_kernel_size, **options)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Room for `capacity` inputs of each long convolution."""
    short = self._short(parent=None)
    return Past(
      short.initial_state(batch_size, capacity, (self.order + 1) * width, dtype),
      (jnp.zeros((batch_size, capacity, width), dtype),) * self.order,
      jnp.zeros((), jnp.int32),
    )

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    length, width = x.shape[1:]
    project = nn.Dense((self.order + 1) * width, dtype=x.dtype, name='projection')
    projected, short = self._short(name='short')(
      project(masked(x, mask)), None if state is None else state.short, mask=mask
    )
    z, *gates = jnp.split(projected, self.order + 1, -1)

    capacity = length if state is None else state.inputs[0].shape[1]
    kernel = Filters(
      self.order, width, self.max_length, self.filter_width, self.num_frequencies,
      self.sine_frequency, name='filter',
    )(capacity)
    skip = self.param('skip', nn.initializers.normal(1.0), (self.order, width))
    kernel = kernel.at[:1].add(skip[None])
    before = (None,) * self.order if state is None else state.inputs
    index = 0 if state is None else state.index
    after = []
    for n, gate in enumerate(gates):
      memory, y = self._convolve(masked(z, mask), kernel[:, n], before[n], index)
      after.append(memory)
      z = gate * y.astype(x.dtype)
    index = jnp.int32(index + length)
    # More tokens than there is room for: the answer is NaN, never silently wrong.
    z = jnp.where(index <= capacity, z, jnp.nan)
    return nn.Dense(width, dtype=x.dtype, name='output')(z), Past(short, tuple(after), index)

  def _convolve(self, z, kernel, memory, index):
    """The memory with z [B, T, D] put at `index`, and the outputs from there on."""
    length = z.shape[1]
    if not length:
      return (z if memory is None else memory), z.astype(jnp.float32)
    y = long_convolution(z.astype(jnp.float32), kernel[:length], self.block_size)
    if memory is None:
      return z, y
    y += from_memory(memory.astype(jnp.float32), kernel, index, length, self.block_size)
    return jax.lax.dynamic_update_slice_in_dim(memory, z.astype(memory.dtype), index, 1), y
