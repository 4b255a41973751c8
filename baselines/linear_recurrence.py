"""Gated and diagonal linear recurrences, computed by scans over time.

With x_t the input, y_t the output, h_t the state and * the elementwise product:

  minGRU    h_t = (1 - z_t) h_{t-1} + z_t c_t,  z = sigmoid(W x)              (Feng et al. 2024)
  minLSTM   h_t = f'_t h_{t-1} + i'_t c_t,  f', i' = f / (f + i), i / (f + i),
            f, i = sigmoid(W x); both with the candidate c = g(W x), where g(v) = v + 1/2 for
            v >= 0 and sigmoid(v) below, so that h is positive, or without g  (Feng et al. 2024)
  LRU       h_t = l h_{t-1} + exp(gamma) B x_t,  y_t = Re(C h_t) + D x_t, with diagonal
            l = exp(-exp(nu) + i exp(theta)), initialized in a ring        (Orvieto et al. 2023)
  RG-LRU    h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t x_t),  a_t = a^(8 r_t), a = sigmoid(Lambda),
            r, i = sigmoid(W x), W block-diagonal; in its block of two branches
            y = W (gelu(W x) * RG-LRU(convolution(W x)))     (De et al. 2024, equations 1 to 4)
            The derivative of the root is bounded, but its value is exact, so that a is 1 where a
            gate is closed.

Operation counts treat a product of complex numbers as a single real product, although it takes
four. The LRU, S4D and S5 therefore do more arithmetic than is counted.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from baselines.activations import gated_linear_unit, log_sigmoid
from baselines.convolution import ShortConvolution
from baselines.diagonal_state_space import complex_linear_scan, exponential
from baselines.scans import linear_scan
from transformer.broadcasting import add_to_channels, multiply_channels
from transformer.dense import Dense, DenseGeneral, multiply_by_matrix
from transformer.layer import SequenceLayer, State, apply_mask
from transformer.options import (
  check_width,
  require_finite_option_values,
  require_one_of,
  require_option_values_at_least,
  require_option_values_greater_than,
)

CANDIDATES = ('g', 'linear')
READOUTS = ('glu', 'half_glu', 'none')
MAX_SQRT_DERIVATIVE = 1000.0  # in the RG-LRU, as in the authors' code (recurrentgemma)


def to_masked_time_major(
  x: jax.Array, mask: jax.Array | None
) -> tuple[jax.Array, jax.Array | None]:
  """Sets x [B, T, D] to zero at padding and makes time the first axis of x and of the mask."""
  return apply_mask(x, mask).swapaxes(0, 1), None if mask is None else mask.T


class MinimalRecurrence(SequenceLayer):
  """Base class of minGRU and minLSTM, whose gates and candidate depend on the input alone.

  The state is h [B, E D]. `expand` is the factor E. If it exceeds 1, h is projected to the width D.
  `candidate` is 'g', as in the paper's logarithmic form, or 'linear'.
  """

  expand: int = 1
  candidate: str = 'g'

  gates: ClassVar[int]  # G, without the candidate

  def __post_init__(self):
    super().__post_init__()
    require_option_values_at_least(self, 1, 'expand')
    require_one_of(self, 'candidate', CANDIDATES)

  def compute_decay_and_candidate_weight(self, preactivations):
    """Computes a and b of h_t = a h_{t-1} + b c_t from gate preactivations [T, B, G, H].

    The decay a multiplies the previous state, and the weight b multiplies the candidate c_t.
    """
    raise TypeError(f'{type(self).__name__} must define compute_decay_and_candidate_weight')

  def _bias_initializer(self, key, shape, dtype=jnp.float32):
    """Initializes the bias [(G + 1) H] of the gates and of the candidate with zeros."""
    return nn.initializers.zeros(key, shape, dtype)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    return jnp.zeros((batch_size, self.expand * width))

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    if state is None:
      state = self.initial_state(batch_size, length, width)
    x, mask = to_masked_time_major(x, mask)
    features = (self.gates + 1, self.expand * width)
    project = DenseGeneral(
      features, dtype=x.dtype, bias_init=self._bias_initializer, name='input'
    )
    projected = project(x).astype(jnp.float32)
    decay, candidate_weight = self.compute_decay_and_candidate_weight(projected[:, :, :-1])
    candidate = projected[:, :, -1]
    if self.candidate == 'g':
      candidate = jnp.where(candidate >= 0, candidate + 0.5, jax.nn.sigmoid(candidate))
    y, state = linear_scan(decay, candidate_weight * candidate, state, mask)
    y = y.astype(x.dtype)
    if self.expand > 1:
      y = Dense(width, dtype=x.dtype, name='output')(y)
    return y.swapaxes(0, 1), state


class MinGRU(MinimalRecurrence):
  """The minGRU, a GRU without reset gate whose update gate does not depend on the state."""

  gates: ClassVar[int] = 1

  def compute_decay_and_candidate_weight(self, preactivations):
    """Computes the decay 1 - z and the candidate weight z, where z is the update gate."""
    update = preactivations[:, :, 0]
    return jax.nn.sigmoid(-update), jax.nn.sigmoid(update)


class MinLSTM(MinimalRecurrence):
  """The minLSTM, an LSTM without output gate, whose normalized gates depend on the input alone."""

  forget_bias: float = 0.0  # larger values retain more at initialization (Feng et al. 2024, 4)

  gates: ClassVar[int] = 2

  def __post_init__(self):
    super().__post_init__()
    require_finite_option_values(self, 'forget_bias')

  def _bias_initializer(self, key, shape, dtype=jnp.float32):
    """Initializes the bias with `forget_bias` for the forget gate, and with zero elsewhere."""
    bias = jnp.zeros((self.gates + 1, shape[0] // (self.gates + 1)), dtype)
    return bias.at[0].set(self.forget_bias).ravel()

  def compute_decay_and_candidate_weight(self, preactivations):
    """Computes the decay f / (f + i) and the candidate weight i / (f + i) from log f and log i.

    They are the sigmoids of log f - log i and of log i - log f, which need no division.
    """
    log_f, log_i = (log_sigmoid(preactivations[:, :, k]) for k in (0, 1))
    log_ratio = log_f - log_i
    return jax.nn.sigmoid(log_ratio), jax.nn.sigmoid(-log_ratio)


class DenseParameters(nn.Module):
  """The kernel and the bias of a dense layer that is computed together with others."""

  features: int

  @nn.compact
  def __call__(self, width: int) -> tuple[jax.Array, jax.Array]:  # [D, F], [F]
    """Returns the parameters, named and initialized as in `flax.linen.Dense`."""
    kernel = self.param('kernel', nn.initializers.lecun_normal(), (width, self.features))
    return kernel, self.param('bias', nn.initializers.zeros, (self.features,))


class Readout(nn.Module):
  """Nonlinear readout that follows the recurrence in a state space layer.

  With u = gelu(y), the result is W u * sigmoid(V u) for 'glu', u * sigmoid(V u) for 'half_glu' and
  y for 'none'.
  """

  form: str

  @nn.compact
  def __call__(self, y: jax.Array) -> jax.Array:  # [..., D]
    if self.form == 'none':
      return y
    width = y.shape[-1]
    u = jax.nn.gelu(y)
    if self.form == 'half_glu':
      return u * jax.nn.sigmoid(Dense(width, dtype=y.dtype, name='gate')(u))
    # A single product with both kernels is faster than two products with half the columns.
    parameters = [DenseParameters(width, name=name)(width) for name in ('value', 'gate')]
    kernel, bias = (jnp.concatenate(p, -1).astype(y.dtype) for p in zip(*parameters, strict=True))
    return gated_linear_unit(add_to_channels(multiply_by_matrix(u, kernel), bias))


class ComplexState(NamedTuple):
  """A complex state as real arrays, because layer states must not have a complex dtype."""

  real: jax.Array  # [B, N]
  imaginary: jax.Array  # [B, N]

  @classmethod
  def from_parts(cls, parts: jax.Array) -> 'ComplexState':
    """Splits the stored parts [B, 2 N] of complex numbers."""
    return cls(*jnp.split(parts, 2, -1))

  def to_parts(self) -> jax.Array:
    """Concatenates the real and the imaginary parts, [B, 2 N]."""
    return jnp.concatenate([self.real, self.imaginary], -1)


def complex_projection(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """Projects real x [T, B, D] to the parts [T, B, 2 N] of complex numbers by a kernel [D, 2, N].

  The kernel consists of the real and the imaginary part of the matrix.
  """
  kernel = kernel.reshape(x.shape[-1], -1).astype(x.dtype)
  return multiply_by_matrix(x, kernel).astype(jnp.float32)


def real_part_of_projection(h: jax.Array, kernel: jax.Array, dtype) -> jax.Array:
  """Computes Re(C h), the real part of a linear projection of complex states h.

  Args:
    h: the parts [T, B, 2 N] of complex states.
    kernel: the real and the imaginary part of C, [2, N, D].
    dtype: the real dtype of the computation and of the result.

  Returns:
    The outputs [T, B, D].

  """
  signed = jnp.concatenate([kernel[0], -kernel[1]]).astype(dtype)
  return multiply_by_matrix(h.astype(dtype), signed)


class LRU(SequenceLayer):
  """Linear recurrent unit, a stable complex diagonal recurrence with normalized input.

  N is `state_size`, where 0 stands for the width D. The initial eigenvalues lie in a ring with the
  radii `r_min` and `r_max` and have angles below `max_phase`, in radians. `readout` names the
  nonlinear readout after the recurrence, as in the block of the paper.
  """

  state_size: int = 0
  r_min: float = 0.0
  r_max: float = 1.0
  max_phase: float = 6.283185307179586
  readout: str = 'glu'

  def __post_init__(self):
    super().__post_init__()
    require_option_values_at_least(self, 0, 'state_size')
    require_one_of(self, 'readout', READOUTS)
    if not 0 <= self.r_min < self.r_max <= 1:
      raise ValueError(f'LRU needs 0 <= r_min < r_max <= 1, not {self.r_min} and {self.r_max}')
    require_option_values_greater_than(self, 0, 'max_phase')

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    zeros = jnp.zeros((batch_size, self.state_size or width))
    return ComplexState(zeros, zeros)

  def _nu_initializer(self, key, shape):
    """Initializes nu so that the eigenvalues are uniform over the area of a ring (Lemma 3.2)."""
    area = jax.random.uniform(key, shape, minval=1e-6)
    # Computed as a sum of non-negative terms, 1 - r^2 is not rounded to 0 for a radius r near 1.
    complement = 1 - self.r_max**2 + (1 - area) * (self.r_max**2 - self.r_min**2)
    return jnp.log(-0.5 * jnp.log1p(-complement))

  def _theta_initializer(self, key, shape):
    """Initializes theta so that eigenvalue angles are uniform between 0 and `max_phase`."""
    return jnp.log(self.max_phase * jax.random.uniform(key, shape, minval=1e-6))

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    size = self.state_size or width
    if state is None:
      state = self.initial_state(batch_size, length, width)
    x, mask = to_masked_time_major(x, mask)
    nu = self.param('nu', self._nu_initializer, (size,))
    theta = self.param('theta', self._theta_initializer, (size,))
    gamma = self.param('gamma', lambda _: 0.5 * jnp.log(-jnp.expm1(-2 * jnp.exp(nu))))
    normal = nn.initializers.normal
    input_kernel = self.param('input_kernel', normal((2 * width) ** -0.5), (width, 2, size))
    output_kernel = self.param('output_kernel', normal(size**-0.5), (2, size, width))
    skip = self.param('skip', normal(1), (width,))

    decay = exponential(jnp.concatenate([-jnp.exp(nu), jnp.exp(theta)]))[None]
    input_term = complex_projection(x, jnp.exp(gamma)[None, None] * input_kernel)
    states, last = complex_linear_scan(decay, input_term, state.to_parts(), mask)
    y = real_part_of_projection(states, output_kernel, x.dtype)
    y += multiply_channels(x, skip.astype(x.dtype))
    return Readout(self.readout, name='readout')(y).swapaxes(0, 1), ComplexState.from_parts(last)


@jax.custom_jvp
def sqrt_with_bounded_derivative(x: jax.Array) -> jax.Array:
  """Computes sqrt(x) with a derivative of at most `MAX_SQRT_DERIVATIVE`, even at x = 0."""
  return jnp.sqrt(x)


@sqrt_with_bounded_derivative.defjvp
def _sqrt_jvp(primals, tangents):
  (x,), (dx,) = primals, tangents
  root = jnp.sqrt(x)
  return root, dx / jnp.maximum(2 * root, 1 / MAX_SQRT_DERIVATIVE)


class RGLRUState(NamedTuple):
  """State of Griffin's recurrent block."""

  convolution: State
  hidden: jax.Array  # [B, D]


class RGLRU(SequenceLayer):
  """Griffin's recurrent block, a real-gated linear recurrent unit after a short convolution.

  `num_heads` is the number of diagonal blocks in the weight matrices of the gates.
  """

  num_heads: int = 4
  kernel_size: int = 4

  sharpness: ClassVar[float] = 8.0  # the exponent c of the paper
  padding_occupies_positions: ClassVar[bool] = True  # because of the convolution

  def __post_init__(self):
    super().__post_init__()
    require_option_values_at_least(self, 1, 'num_heads', 'kernel_size')

  @property
  def required_width_divisor(self):
    return self.num_heads

  def _short_convolution(self, **options):
    return ShortConvolution(self.kernel_size, **options)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    convolution = self._short_convolution(parent=None)
    return RGLRUState(
      convolution.initial_state(batch_size, capacity, width, dtype),
      jnp.zeros((batch_size, width)),
    )

  def _lambda_initializer(self, key, shape):
    """Initializes Lambda so that sigmoid(Lambda)^c is uniform from 0.9 to 0.999 (section 2.4)."""
    log_a = jnp.log(jax.random.uniform(key, shape, minval=0.9, maxval=0.999)) / self.sharpness
    return log_a - jnp.log(-jnp.expm1(log_a))

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    check_width(self, width)
    past = None if state is None else state.convolution
    if state is None:
      state = self.initial_state(batch_size, length, width, x.dtype)
    x = apply_mask(x, mask)
    branch = jax.nn.gelu(Dense(width, dtype=x.dtype, name='branch')(x))
    u = Dense(width, dtype=x.dtype, name='input')(x)
    u, convolution = self._short_convolution(name='convolution')(u, past, mask=mask)
    u, mask = to_masked_time_major(u, mask)

    block = width // self.num_heads
    blocks = u.reshape(length * batch_size, self.num_heads, block)
    shape = (self.num_heads, block, 2, block)
    kernel = self.param('gate_kernel', nn.initializers.lecun_normal(1, -1, (0, 2)), shape)
    bias = self.param('gate_bias', nn.initializers.zeros, (2, width))
    # As a product of one matrix for each head, with gates as columns, it needs the fewest copies.
    gates = jnp.einsum(
      'THK,HKJ->HTJ', blocks, kernel.astype(x.dtype).reshape(self.num_heads, block, 2 * block))
    gates = gates.reshape(self.num_heads, length, batch_size, 2, block).transpose(3, 1, 2, 0, 4)
    gates = gates.reshape(2, *u.shape).astype(jnp.float32)
    r, i = (jax.nn.sigmoid(add_to_channels(gates[k], bias[k])) for k in range(2))
    log_a = log_sigmoid(self.param('lambda', self._lambda_initializer, (width,)))
    log_decay = multiply_channels(r, self.sharpness * log_a)
    gain = sqrt_with_bounded_derivative(-jnp.expm1(2 * log_decay))
    y, hidden = linear_scan(jnp.exp(log_decay), gain * i * u, state.hidden, mask)
    y = branch * y.swapaxes(0, 1).astype(x.dtype)
    return Dense(width, dtype=x.dtype, name='output')(y), RGLRUState(convolution, hidden)
