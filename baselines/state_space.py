"""State space models: linear systems in continuous time, read at steps of a learned length.

Within a step of length s the input is held, so that  h' = A h + B x  with a diagonal A becomes

  h_t = exp(s A) h_{t-1} + A^-1 (exp(s A) - 1) B x_t        (zero-order hold)

  S4D       one system of N states for each channel, A complex            (Gu et al. 2022)
  S5        one system for all channels, A complex, B and C matrices      (Smith et al. 2023)
  Mamba     one system of N states for each channel, A real; s, B and C depend on the input, and
            s B stands for the held input's factor (S6; Gu and Dao 2023, algorithm 2). With
            eigenvalues in [-1,1] a step multiplies by 2 exp(s A) - 1    (Grazzi et al. 2025)

Complex states come in conjugate pairs, of which one is kept: N of them are N / 2 complex numbers,
and y is twice a real part. All keep exp(s A) below one: the real part of A is -exp of a parameter.
Where operations are counted, a complex product counts as a real one, though it takes four.
"""

import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from baselines.convolution import ShortConvolution
from baselines.discretization import held, hippo_normal, log_uniform, step_bias
from baselines.linear_recurrence import (
  READOUTS,
  Complex,
  Readout,
  complex_projection,
  real_projection,
  time_first,
)
from baselines.scans import EIGENVALUES, expanded_scan, linear_scan
from transformer.layer import SequenceLayer, State, masked
from transformer.options import at_least, one_of

INITIALISATIONS = ('lin', 'inv', 'legs')
LARGEST_HIPPO = 4096  # the work of decomposing HiPPO-N grows with the cube of its size
INPUT_VARIANCES = ('1/D', '1/N')  # of S5's B


def _check_steps(dt_min, dt_max):
  if not 0 < dt_min < dt_max < math.inf:
    raise ValueError(f'a state space needs 0 < dt_min < dt_max, not {dt_min} and {dt_max}')


def _check_pairs(state_size, blocks=1):
  if state_size < 2 or state_size % (2 * blocks):
    raise ValueError(
      f'a state_size of {state_size} does not suit: it takes multiples of {2 * blocks}, in pairs'
    )


def _check_hippo(size):
  if size > LARGEST_HIPPO:
    raise ValueError(
      f'a HiPPO matrix of {size} x {size} complex numbers takes {8 * size**2 / 2**30:,.1f} GiB: '
      f'its size, state_size / blocks, is at most {LARGEST_HIPPO}'
    )


class S4D(SequenceLayer):
  """Diagonal state spaces, one for each channel; its state is h [B, N / 2, D], complex.

  `state_size` is N. `initialisation` is that of A: 'lin' has -1/2 + i pi n, 'inv' and 'legs' are
  the paper's as well. B is 1, since only its product with C matters. `readout` is the mixing of
  channels that belongs to the paper's layer.
  """

  state_size: int = 64
  initialisation: str = 'lin'
  dt_min: float = 0.001
  dt_max: float = 0.1
  readout: str = 'glu'

  def __post_init__(self):
    super().__post_init__()
    _check_pairs(self.state_size)
    _check_steps(self.dt_min, self.dt_max)
    one_of(self, 'initialisation', INITIALISATIONS)
    if self.initialisation == 'legs':
      _check_hippo(self.state_size)
    one_of(self, 'readout', READOUTS)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Zeros."""
    zeros = jnp.zeros((batch_size, self.state_size // 2, width))
    return Complex(zeros, zeros)

  def _imaginary(self, key, shape):
    """The imaginary part of A [N / 2, D]."""
    size, n = self.state_size, jnp.arange(self.state_size // 2)
    values = {
      'lin': lambda: math.pi * n,
      'inv': lambda: size / math.pi * (size / (2 * n + 1) - 1),
      'legs': lambda: hippo_normal(size)[0],
    }[self.initialisation]()
    return jnp.broadcast_to(values[:, None], shape)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    if state is None:
      state = self.initial_state(batch_size, length, width)
    x, mask = time_first(x, mask)
    shape = (self.state_size // 2, width)
    log_real = self.param('log_real', nn.initializers.constant(math.log(0.5)), shape)
    imaginary = self.param('imaginary', self._imaginary, shape)
    log_step = self.param('log_step', log_uniform, (width,), jnp.float32, self.dt_min, self.dt_max)
    kernel = self.param('output_kernel', nn.initializers.normal(0.5**0.5), (2, *shape))
    skip = self.param('skip', nn.initializers.normal(1), (width,))
    decay, gain = held(log_real, imaginary, log_step[None])
    kernel = 2 * gain * jax.lax.complex(kernel[0], kernel[1])

    def expand(now):  # [B, D], [B]
      x, valid = now
      kept = decay[None] if valid is None else jnp.where(valid[:, None, None], decay[None], 1)
      return kept, x[:, None]

    def read(h, now):
      return jnp.sum((h * kernel[None]).real, 1)

    y, last = expanded_scan(expand, read, (x.astype(jnp.float32), mask), state.joined())
    y = (y + skip[None, None] * x).astype(x.dtype)
    return Readout(self.readout, name='readout')(y).swapaxes(0, 1), Complex.of(last)


class S5(SequenceLayer):
  """One diagonal state space that reads and writes all channels; its state is h [B, N / 2].

  `state_size` is N, of `blocks` HiPPO-N matrices of equal size at the start. `readout` is the
  activation that belongs to the paper's layer. `input_variance` is that of B's entries at the
  start: '1/D' keeps the drive at the input's variance for every width D; the authors' code has
  '1/N'.
  """

  state_size: int = 64
  blocks: int = 1
  dt_min: float = 0.001
  dt_max: float = 0.1
  readout: str = 'half_glu'
  input_variance: str = '1/D'

  def __post_init__(self):
    super().__post_init__()
    at_least(self, 1, 'blocks')
    one_of(self, 'input_variance', INPUT_VARIANCES)
    _check_pairs(self.state_size, self.blocks)
    _check_hippo(self.state_size // self.blocks)
    _check_steps(self.dt_min, self.dt_max)
    one_of(self, 'readout', READOUTS)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Zeros."""
    zeros = jnp.zeros((batch_size, self.state_size // 2))
    return Complex(zeros, zeros)

  def _imaginary(self, key, shape):
    """The imaginary part of A [N / 2]."""
    return jnp.tile(hippo_normal(self.state_size // self.blocks)[0], self.blocks)

  def _basis(self):
    """The columns of V [N, N / 2] for all blocks."""
    vectors = hippo_normal(self.state_size // self.blocks)[1]
    return jnp.kron(jnp.eye(self.blocks), vectors)

  def _input(self, key, shape):
    """V* B for a real B [N, D] of the variance `input_variance`."""
    width = shape[0]
    size = width if self.input_variance == '1/D' else self.state_size
    real = jax.random.normal(key, (width, self.state_size)) * size**-0.5
    turned = real @ self._basis().conj()
    return jnp.stack([turned.real, turned.imag], 1)

  def _output(self, key, shape):
    """C V for a real C [D, N] of variance 1 / N."""
    real = jax.random.normal(key, (self.state_size, shape[2])) * self.state_size**-0.5
    turned = self._basis().T @ real
    return jnp.stack([turned.real, turned.imag])

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    size = self.state_size // 2
    if state is None:
      state = self.initial_state(batch_size, length, width)
    x, mask = time_first(x, mask)
    log_real = self.param('log_real', nn.initializers.constant(math.log(0.5)), (size,))
    imaginary = self.param('imaginary', self._imaginary, (size,))
    log_step = self.param('log_step', log_uniform, (size,), jnp.float32, self.dt_min, self.dt_max)
    input_kernel = self.param('input_kernel', self._input, (width, 2, size))
    output_kernel = self.param('output_kernel', self._output, (2, size, width))
    skip = self.param('skip', nn.initializers.normal(1), (width,))

    decay, gain = held(log_real, imaginary, log_step)
    drive = gain[None, None] * complex_projection(x, input_kernel)
    states, last = linear_scan(decay[None, None], drive, state.joined(), mask)
    y = 2 * real_projection(states, output_kernel, x.dtype)
    y += skip.astype(x.dtype)[None, None] * x
    return Readout(self.readout, name='readout')(y).swapaxes(0, 1), Complex.of(last)


class MambaState(NamedTuple):
  """The memory of a Mamba layer."""

  convolution: State
  hidden: jax.Array  # [B, N, E D]


class Mamba(SequenceLayer):
  """Selective state spaces between a short convolution and a gate.

  The inner width is `expand` times the width, E D; `state_size` is N; `dt_rank` is the rank of the
  map from the input to the steps, a sixteenth of the width, rounded up, where it is 0.
  """

  expand: int = 2
  state_size: int = 16
  kernel_size: int = 4
  dt_rank: int = 0
  dt_min: float = 0.001
  dt_max: float = 0.1
  eigenvalues: str = '[0,1]'

  padding_takes_time: ClassVar[bool] = True  # in the convolution

  def __post_init__(self):
    super().__post_init__()
    at_least(self, 1, 'expand', 'state_size', 'kernel_size')
    at_least(self, 0, 'dt_rank')
    one_of(self, 'eigenvalues', EIGENVALUES)
    _check_steps(self.dt_min, self.dt_max)

  def _convolution(self, **place):
    return ShortConvolution(self.kernel_size, **place)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Zeros, and what the convolution starts from."""
    inner = self.expand * width
    convolution = self._convolution(parent=None)
    return MambaState(
      convolution.initial_state(batch_size, capacity, inner, dtype),
      jnp.zeros((batch_size, self.state_size, inner)),
    )

  def _log_rate(self, key, shape):
    """The logarithms of 1 .. N for every channel: S4D-Real (Gu et al. 2022)."""
    return jnp.broadcast_to(jnp.log(jnp.arange(1.0, shape[0] + 1))[:, None], shape)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    if state is None:
      state = self.initial_state(batch_size, length, width, x.dtype)
    inner = self.expand * width

    def dense(features, name):
      return nn.Dense(features, use_bias=False, dtype=x.dtype, name=name)

    u, gate = jnp.split(dense(2 * inner, 'input')(masked(x, mask)), 2, -1)
    u, convolution = self._convolution(name='convolution')(u, state.convolution, mask=mask)
    u, mask = time_first(jax.nn.silu(u), mask)
    y, hidden = self._selective(u, state.hidden, mask, self.dt_rank or -(-width // 16), dense)
    y = y.swapaxes(0, 1) * jax.nn.silu(gate)
    return dense(width, 'output')(y), MambaState(convolution, hidden)

  def _selective(self, u, hidden, mask, rank, dense):
    """S6 over u [T, B, E D] from the state `hidden`: y [T, B, E D] and the state after it."""
    size, inner = self.state_size, u.shape[-1]
    low, b, c = jnp.split(dense(rank + 2 * size, 'selection')(u), (rank, rank + size), -1)
    below = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')  # rank^-1/2 in size
    kernel = self.param('step_kernel', below, (rank, inner))
    bias = self.param('step_bias', step_bias, (inner,), jnp.float32, self.dt_min, self.dt_max)
    step = jax.nn.softplus((low @ kernel.astype(u.dtype)).astype(jnp.float32) + bias[None, None])
    step = masked(step, mask)  # a step of length 0 leaves the state as it is
    a = -jnp.exp(self.param('log_rate', self._log_rate, (size, inner)))
    skip = self.param('skip', nn.initializers.ones, (inner,))

    def expand(now):
      step, input_projection, b, _ = now
      decay = jnp.exp(step[:, None] * a[None])
      if self.eigenvalues == '[-1,1]':
        decay = 2 * decay - 1
      return decay, jnp.einsum('BN,BD->BND', b, input_projection)

    def read(h, now):
      return jnp.einsum('BND,BN->BD', h, now[3])

    b, c = b.astype(jnp.float32), c.astype(jnp.float32)
    y, hidden = expanded_scan(expand, read, (step, step * u, b, c), hidden)
    return (y + skip[None, None] * u).astype(u.dtype), hidden
