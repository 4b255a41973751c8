"""State space layers S4D, S5 and Mamba, discretized linear systems with learned step lengths.

Within a step of length s the input is constant, so h' = A h + B x with a diagonal A becomes

  h_t = exp(s A) h_{t-1} + A^-1 (exp(s A) - 1) B x_t        (zero-order hold)

  S4D       a system of N states for each channel, A complex              (Gu et al. 2022)
  S5        a single system for all channels, A complex, B and C matrices (Smith et al. 2023)
  Mamba     a system of N states for each channel, A real; s, B and C depend on the input, and
            s B approximates the input gain (S6; Gu and Dao 2023, algorithm 2). With
            eigenvalues in [-1,1] a step multiplies by 2 exp(s A) - 1    (Grazzi et al. 2025)

Complex states occur in conjugate pairs, and a single state of each pair is stored. N states are
therefore N / 2 complex numbers, and y is twice a real part. The real part of A is -exp of a
parameter, so |exp(s A)| stays below 1. Operation counts treat a complex product as a single real
product, although it takes four.
"""

import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from baselines.activations import multiply_by_silu, silu, softplus
from baselines.convolution import ShortConvolution
from baselines.diagonal_state_space import complex_linear_scan, diagonal_state_space, to_parts
from baselines.discretization import (
  expm1_divided_by_z,
  hippo_normal_part_eigenpairs,
  log_time_step_initializer,
  time_step_bias_initializer,
  zero_order_hold,
)
from baselines.linear_recurrence import (
  READOUTS,
  ComplexState,
  Readout,
  complex_projection,
  real_part_of_projection,
  to_masked_time_major,
)
from baselines.scans import EIGENVALUES
from baselines.selective_scan import selective_scan
from transformer.broadcasting import add_to_channels, multiply_channels
from transformer.dense import Dense
from transformer.layer import SequenceLayer, State, apply_mask
from transformer.options import require_one_of, require_option_values_at_least

INITIALISATIONS = ('lin', 'inv', 'legs')
MAX_HIPPO_SIZE = 4096  # the cost of decomposing HiPPO-N grows with the cube of its size
INPUT_VARIANCES = ('1/D', '1/N')  # of the entries of B in S5


def _check_step_length_bounds(dt_min, dt_max):
  if not 0 < dt_min < dt_max < math.inf:
    raise ValueError(f'a state space needs 0 < dt_min < dt_max, not {dt_min} and {dt_max}')


def _check_state_size(state_size, blocks=1):
  if state_size < 2 or state_size % (2 * blocks):
    raise ValueError(
      f'state_size must be a positive multiple of {2 * blocks}, not {state_size}'
    )


def _check_hippo_matrix_size(size):
  if size > MAX_HIPPO_SIZE:
    raise ValueError(
      f'a HiPPO matrix of {size} x {size} complex numbers takes {8 * size**2 / 2**30:,.1f} GiB; '
      f'its size, state_size / blocks, must be at most {MAX_HIPPO_SIZE}'
    )


class S4D(SequenceLayer):
  """S4D, with a separate diagonal state space for each channel and complex states [B, N / 2, D].

  `state_size` is N. `initialisation` names the initial A. 'lin' is -1/2 + i pi n, and 'inv' and
  'legs' are defined in the paper as well. B is 1, because only its product with C matters.
  `readout` names the mixing of channels, which is part of the layer in the paper.
  """

  state_size: int = 64
  initialisation: str = 'lin'
  dt_min: float = 0.001
  dt_max: float = 0.1
  readout: str = 'glu'

  def __post_init__(self):
    super().__post_init__()
    _check_state_size(self.state_size)
    _check_step_length_bounds(self.dt_min, self.dt_max)
    require_one_of(self, 'initialisation', INITIALISATIONS)
    if self.initialisation == 'legs':
      _check_hippo_matrix_size(self.state_size)
    require_one_of(self, 'readout', READOUTS)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    zeros = jnp.zeros((batch_size, self.state_size // 2, width))
    return ComplexState(zeros, zeros)

  def _imaginary_part_initializer(self, key, shape):
    """Initializes the imaginary part of the diagonal state matrices A [N / 2, D]."""
    size, n = self.state_size, jnp.arange(self.state_size // 2)
    values = {
      'lin': lambda: math.pi * n,
      'inv': lambda: size / math.pi * (size / (2 * n + 1) - 1),
      'legs': lambda: hippo_normal_part_eigenpairs(size)[0],
    }[self.initialisation]()
    return jnp.broadcast_to(values[:, None], shape)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    if state is None:
      state = self.initial_state(batch_size, length, width)
    x = apply_mask(x, mask)
    shape = (self.state_size // 2, width)
    log_real = self.param('log_real', nn.initializers.constant(math.log(0.5)), shape)
    imaginary = self.param('imaginary', self._imaginary_part_initializer, shape)
    log_step = self.param(
      'log_step', log_time_step_initializer, (width,), jnp.float32, self.dt_min, self.dt_max
    )
    kernel = self.param('output_kernel', nn.initializers.normal(0.5**0.5), (2, *shape))
    skip = self.param('skip', nn.initializers.normal(1), (width,))
    step = jnp.exp(log_step)[None]
    log_decay = step * jax.lax.complex(-jnp.exp(log_real), imaginary)
    gain = step * expm1_divided_by_z(log_decay)
    kernel = 2 * gain * jax.lax.complex(kernel[0], kernel[1])
    parts = jnp.concatenate([part.transpose(2, 0, 1) for part in state], -1)  # [D, B, N]
    y, parts = diagonal_state_space(
      x.astype(jnp.float32), to_parts(log_decay.T), to_parts(kernel.T), parts, mask)
    y = (y + multiply_channels(x, skip)).astype(x.dtype)
    last = ComplexState(*(part.transpose(1, 2, 0) for part in jnp.split(parts, 2, -1)))
    return Readout(self.readout, name='readout')(y), last


class S5(SequenceLayer):
  """S5, with a single diagonal state space for all channels and complex states [B, N / 2].

  `state_size` is N. The initial A consists of `blocks` HiPPO-N matrices of equal size. `readout`
  names the activation, which is part of the layer in the paper. `input_variance` is the initial
  variance of the entries of B. '1/D' keeps the variance of the input for every width D, and '1/N'
  is that of the authors' code.
  """

  state_size: int = 64
  blocks: int = 1
  dt_min: float = 0.001
  dt_max: float = 0.1
  readout: str = 'half_glu'
  input_variance: str = '1/D'

  def __post_init__(self):
    super().__post_init__()
    require_option_values_at_least(self, 1, 'blocks')
    require_one_of(self, 'input_variance', INPUT_VARIANCES)
    _check_state_size(self.state_size, self.blocks)
    _check_hippo_matrix_size(self.state_size // self.blocks)
    _check_step_length_bounds(self.dt_min, self.dt_max)
    require_one_of(self, 'readout', READOUTS)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    zeros = jnp.zeros((batch_size, self.state_size // 2))
    return ComplexState(zeros, zeros)

  def _imaginary_part_initializer(self, key, shape):
    """Initializes the imaginary part of the diagonal state matrix A [N / 2]."""
    return jnp.tile(hippo_normal_part_eigenpairs(self.state_size // self.blocks)[0], self.blocks)

  def _eigenvector_basis(self):
    """The eigenvectors of the initial A, one of each conjugate pair, as columns of V [N, N / 2]."""
    vectors = hippo_normal_part_eigenpairs(self.state_size // self.blocks)[1]
    return jnp.kron(jnp.eye(self.blocks), vectors)

  def _input_kernel_initializer(self, key, shape):
    """Initializes the input matrix as V* B, where V is the eigenvector basis and B is real.

    The entries of B [N, D] have the variance `input_variance`.
    """
    width = shape[0]
    size = width if self.input_variance == '1/D' else self.state_size
    real = jax.random.normal(key, (width, self.state_size)) * size**-0.5
    transformed = real @ self._eigenvector_basis().conj()
    return jnp.stack([transformed.real, transformed.imag], 1)

  def _output_kernel_initializer(self, key, shape):
    """Initializes the output matrix as C V, where V is the eigenvector basis and C is real.

    The entries of C [D, N] have the variance 1 / N.
    """
    real = jax.random.normal(key, (self.state_size, shape[2])) * self.state_size**-0.5
    transformed = self._eigenvector_basis().T @ real
    return jnp.stack([transformed.real, transformed.imag])

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    size = self.state_size // 2
    if state is None:
      state = self.initial_state(batch_size, length, width)
    x, mask = to_masked_time_major(x, mask)
    log_real = self.param('log_real', nn.initializers.constant(math.log(0.5)), (size,))
    imaginary = self.param('imaginary', self._imaginary_part_initializer, (size,))
    log_step = self.param(
      'log_step', log_time_step_initializer, (size,), jnp.float32, self.dt_min, self.dt_max
    )
    input_kernel = self.param('input_kernel', self._input_kernel_initializer, (width, 2, size))
    output_kernel = self.param('output_kernel', self._output_kernel_initializer, (2, size, width))
    skip = self.param('skip', nn.initializers.normal(1), (width,))

    decay, gain = zero_order_hold(log_real, imaginary, log_step)
    real, imaginary_part = gain.real[None], gain.imag[None]
    input_kernel = jnp.stack([
      real * input_kernel[:, 0] - imaginary_part * input_kernel[:, 1],
      real * input_kernel[:, 1] + imaginary_part * input_kernel[:, 0],
    ], 1)
    input_term = complex_projection(x, input_kernel)
    states, last = complex_linear_scan(to_parts(decay)[None], input_term, state.to_parts(), mask)
    y = real_part_of_projection(states, 2 * output_kernel, x.dtype)
    y += multiply_channels(x, skip.astype(x.dtype))
    return Readout(self.readout, name='readout')(y).swapaxes(0, 1), ComplexState.from_parts(last)


class MambaState(NamedTuple):
  """State of a Mamba layer."""

  convolution: State
  hidden: jax.Array  # [B, N, E D]


class Mamba(SequenceLayer):
  """Mamba, a selective state-space model between a short convolution and an output gate.

  The inner width is `expand` times the width, E D. `state_size` is N. `dt_rank` is the rank of the
  map from the input to the steps, where 0 stands for a sixteenth of the width, rounded up.
  """

  expand: int = 2
  state_size: int = 16
  kernel_size: int = 4
  dt_rank: int = 0
  dt_min: float = 0.001
  dt_max: float = 0.1
  eigenvalues: str = '[0,1]'

  padding_occupies_positions: ClassVar[bool] = True  # because of the convolution

  def __post_init__(self):
    super().__post_init__()
    require_option_values_at_least(self, 1, 'expand', 'state_size', 'kernel_size')
    require_option_values_at_least(self, 0, 'dt_rank')
    require_one_of(self, 'eigenvalues', EIGENVALUES)
    _check_step_length_bounds(self.dt_min, self.dt_max)

  def _short_convolution(self, **options):
    return ShortConvolution(self.kernel_size, **options)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    inner = self.expand * width
    convolution = self._short_convolution(parent=None)
    return MambaState(
      convolution.initial_state(batch_size, capacity, inner, dtype),
      jnp.zeros((batch_size, self.state_size, inner)),
    )

  def _log_rate_initializer(self, key, shape):
    """Initializes the decay rates of every channel with 1, 2, ..., N, stored as logarithms.

    This initialization is called S4D-Real (Gu et al. 2022).
    """
    return jnp.broadcast_to(jnp.log(jnp.arange(1.0, shape[0] + 1))[:, None], shape)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    past = None if state is None else state.convolution
    if state is None:
      state = self.initial_state(batch_size, length, width, x.dtype)
    inner = self.expand * width

    def projection_layer(features, name):
      return Dense(features, use_bias=False, dtype=x.dtype, name=name)

    u, gate = jnp.split(projection_layer(2 * inner, 'input')(apply_mask(x, mask)), 2, -1)
    u, convolution = self._short_convolution(name='convolution')(u, past, mask=mask)
    u, mask = to_masked_time_major(silu(u), mask)
    rank = self.dt_rank or -(-width // 16)
    y, hidden = self._selective_scan(u, state.hidden, mask, rank, projection_layer)
    y = multiply_by_silu(y.swapaxes(0, 1), gate)
    return projection_layer(width, 'output')(y), MambaState(convolution, hidden)

  def _selective_scan(self, u, hidden, mask, rank, projection_layer):
    """Computes the outputs and the last state of a selective scan (S6) of the inputs u.

    The shape of u is [T, B, E D], where E is the option `expand`.
    """
    size, inner = self.state_size, u.shape[-1]
    projected = projection_layer(rank + 2 * size, 'selection')(u)
    low, b, c = jnp.split(projected, (rank, rank + size), -1)
    uniform = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')  # within rank^-1/2
    kernel = self.param('step_kernel', uniform, (rank, inner))
    bias = self.param(
      'step_bias', time_step_bias_initializer, (inner,), jnp.float32, self.dt_min, self.dt_max
    )
    step = (low @ kernel.astype(u.dtype)).astype(jnp.float32)
    step = softplus(add_to_channels(step, bias))
    step = apply_mask(step, mask)  # A step of length 0 leaves the state unchanged.
    a = -jnp.exp(self.param('log_rate', self._log_rate_initializer, (size, inner)))
    skip = self.param('skip', nn.initializers.ones, (inner,))
    y, hidden = selective_scan(
      step, step * u, b.astype(jnp.float32), c.astype(jnp.float32), a, hidden,
      signed=self.eigenvalues == '[-1,1]',
    )
    return (y + multiply_channels(u, skip)).astype(u.dtype), hidden
