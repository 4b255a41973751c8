"""Gated and diagonal linear recurrences: a loop that is a decaying sum, and so a scan.

With x_t the input, y_t the output, h_t the state, * by elements:

  minGRU    h_t = (1 - z_t) h_{t-1} + z_t c_t,  z = sigmoid(W x)              (Feng et al. 2024)
  minLSTM   h_t = f'_t h_{t-1} + i'_t c_t,  f', i' = f / (f + i), i / (f + i),
            f, i = sigmoid(W x); both with the candidate c = g(W x), where g(v) = v + 1/2 for
            v >= 0 and sigmoid(v) below, so that h is positive, or without g  (Feng et al. 2024)
  LRU       h_t = l h_{t-1} + exp(gamma) B x_t,  y_t = Re(C h_t) + D x_t, all diagonal in l =
            exp(-exp(nu) + i exp(theta)), which starts in a ring           (Orvieto et al. 2023)
  RG-LRU    h_t = a_t h_{t-1} + sqrt(1 - a_t^2) (i_t x_t),  a_t = a^(8 r_t), a = sigmoid(Lambda),
            r, i = sigmoid(W x), W block-diagonal; in its block of two branches
            y = W (gelu(W x) * RG-LRU(convolution(W x)))     (De et al. 2024, equations 1 to 4)
            The derivative of the root is bounded, its value is exact: where a gate is shut, a is 1.

Where operations are counted, a product of complex numbers counts as one of real numbers, though it
takes four: the LRU, S4D and S5 do more arithmetic than their counts say.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from baselines.convolution import ShortConvolution
from baselines.scans import linear_scan
from transformer.layer import SequenceLayer, State, masked
from transformer.options import above, at_least, finite, one_of, suits

CANDIDATES = ('g', 'linear')
READOUTS = ('glu', 'half_glu', 'none')
LARGEST_SLOPE = 1000.0  # of the root in RG-LRU, as in the authors' code (recurrentgemma)


def time_first(x: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
  """Time as first axis of x [B, T, D], with zeros under the mask, and of the mask."""
  return masked(x, mask).swapaxes(0, 1), None if mask is None else mask.T


class Minimal(SequenceLayer):
  """What minGRU and minLSTM share: gates and candidate from the input alone.

  The state is h [B, E D]. `expand` is the factor E; where it is over 1, h is projected to the
  width. `candidate` is 'g', as in the paper's form in logarithms, or 'linear'.
  """

  expand: int = 1
  candidate: str = 'g'

  gates: ClassVar[int]  # G, the candidate not among them

  def __post_init__(self):
    super().__post_init__()
    at_least(self, 1, 'expand')
    one_of(self, 'candidate', CANDIDATES)

  def coefficients(self, gates):
    """The gates [T, B, G, H] before their sigmoid -> how h decays and how the candidate enters."""
    raise TypeError(f'{type(self).__name__} has no coefficients')

  def bias(self, key, shape, dtype=jnp.float32):
    """The initial bias [(G + 1) H]."""
    return nn.initializers.zeros(key, shape, dtype)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Zeros."""
    return jnp.zeros((batch_size, self.expand * width))

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    if state is None:
      state = self.initial_state(batch_size, length, width)
    x, mask = time_first(x, mask)
    features = (self.gates + 1, self.expand * width)
    projected = nn.DenseGeneral(features, dtype=x.dtype, bias_init=self.bias, name='input')(x)
    projected = projected.astype(jnp.float32)
    decay, gain = self.coefficients(projected[:, :, :-1])
    candidate = projected[:, :, -1]
    if self.candidate == 'g':
      candidate = jnp.where(candidate >= 0, candidate + 0.5, jax.nn.sigmoid(candidate))
    y, state = linear_scan(decay, gain * candidate, state, mask)
    y = y.astype(x.dtype)
    if self.expand > 1:
      y = nn.Dense(width, dtype=x.dtype, name='output')(y)
    return y.swapaxes(0, 1), state


class MinGRU(Minimal):
  """The GRU without a reset, its gate blind to the state."""

  gates: ClassVar[int] = 1

  def coefficients(self, gates):
    """1 - z and z."""
    update = gates[:, :, 0]
    return jax.nn.sigmoid(-update), jax.nn.sigmoid(update)


class MinLSTM(Minimal):
  """The LSTM without an output gate, its gates blind to the state and made to sum to one."""

  forget_bias: float = 0.0  # more of it keeps more at the start (Feng et al. 2024, section 4)

  gates: ClassVar[int] = 2

  def __post_init__(self):
    super().__post_init__()
    finite(self, 'forget_bias')

  def bias(self, key, shape, dtype=jnp.float32):
    """Zeros, but `forget_bias` for the forget gate."""
    bias = jnp.zeros((self.gates + 1, shape[0] // (self.gates + 1)), dtype)
    return bias.at[0].set(self.forget_bias).ravel()

  def coefficients(self, gates):
    """The gates f / (f + i) = sigmoid(log f - log i) and i / (f + i), with no 0 / 0 in them."""
    log_ratio = jax.nn.log_sigmoid(gates[:, :, 0]) - jax.nn.log_sigmoid(gates[:, :, 1])
    return jax.nn.sigmoid(log_ratio), jax.nn.sigmoid(-log_ratio)


class Readout(nn.Module):
  """What follows a state space within its layer.

  With u = gelu(y): W u * sigmoid(V u) for 'glu', u * sigmoid(V u) for 'half_glu'; y for 'none'.
  """

  form: str

  @nn.compact
  def __call__(self, y: jax.Array) -> jax.Array:  # [..., D]
    """The same shape."""
    if self.form == 'none':
      return y
    u = jax.nn.gelu(y)
    dense = [nn.Dense(y.shape[-1], dtype=y.dtype, name=name) for name in ('value', 'gate')]
    value = dense[0](u) if self.form == 'glu' else u
    return value * jax.nn.sigmoid(dense[1](u))


class Complex(NamedTuple):
  """A state of complex numbers; no layer's state has a complex dtype."""

  real: jax.Array  # [B, N]
  imaginary: jax.Array  # [B, N]

  @classmethod
  def of(cls, x: jax.Array) -> 'Complex':
    """The parts of a complex array."""
    return cls(x.real, x.imag)

  def joined(self) -> jax.Array:
    """The complex array of these parts."""
    return jax.lax.complex(self.real, self.imaginary)


def complex_projection(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """B x for x [T, B, D] real and B [D, 2, N] its real and imaginary part: complex, [T, B, N]."""
  parts = jnp.einsum('TBD,DPN->PTBN', x, kernel.astype(x.dtype)).astype(jnp.float32)
  return jax.lax.complex(parts[0], parts[1])


def real_projection(h: jax.Array, kernel: jax.Array, dtype) -> jax.Array:
  """Re(C h) for h [T, B, N] complex and C [2, N, D] its real and imaginary part: [T, B, D]."""
  parts = jnp.stack([h.real, -h.imag]).astype(dtype)
  return jnp.einsum('PTBN,PND->TBD', parts, kernel.astype(dtype))


class LRU(SequenceLayer):
  """Linear recurrent unit: a complex diagonal, stable by its parameters, normalised at the start.

  N is `state_size`, or the width where that is 0. `r_min` and `r_max` bound the ring, `max_phase`
  the angle, in radians. `readout` is what the paper's block puts behind the recurrence.
  """

  state_size: int = 0
  r_min: float = 0.0
  r_max: float = 1.0
  max_phase: float = 6.283185307179586
  readout: str = 'glu'

  def __post_init__(self):
    super().__post_init__()
    at_least(self, 0, 'state_size')
    one_of(self, 'readout', READOUTS)
    if not 0 <= self.r_min < self.r_max <= 1:
      raise ValueError(f'an LRU needs 0 <= r_min < r_max <= 1, not {self.r_min} and {self.r_max}')
    above(self, 0, 'max_phase')

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Zeros."""
    zeros = jnp.zeros((batch_size, self.state_size or width))
    return Complex(zeros, zeros)

  def _ring(self, key, shape):
    """Nu for eigenvalues that are uniform in the ring's area (Lemma 3.2)."""
    area = jax.random.uniform(key, shape, minval=1e-6)
    # By 1 - r^2, which does not round to 0 for a radius r near 1.
    lost = 1 - self.r_max**2 + (1 - area) * (self.r_max**2 - self.r_min**2)
    return jnp.log(-0.5 * jnp.log1p(-lost))

  def _phase(self, key, shape):
    """Theta for angles that are uniform below `max_phase`."""
    return jnp.log(self.max_phase * jax.random.uniform(key, shape, minval=1e-6))

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    size = self.state_size or width
    if state is None:
      state = self.initial_state(batch_size, length, width)
    x, mask = time_first(x, mask)
    nu, theta = self.param('nu', self._ring, (size,)), self.param('theta', self._phase, (size,))
    gamma = self.param('gamma', lambda _: 0.5 * jnp.log(-jnp.expm1(-2 * jnp.exp(nu))))
    normal = nn.initializers.normal
    input_kernel = self.param('input_kernel', normal((2 * width) ** -0.5), (width, 2, size))
    output_kernel = self.param('output_kernel', normal(size**-0.5), (2, size, width))
    skip = self.param('skip', normal(1), (width,))

    decay = jnp.exp(jax.lax.complex(-jnp.exp(nu), jnp.exp(theta)))[None, None]
    drive = jnp.exp(gamma)[None, None] * complex_projection(x, input_kernel)
    states, last = linear_scan(decay, drive, state.joined(), mask)
    y = real_projection(states, output_kernel, x.dtype) + skip.astype(x.dtype)[None, None] * x
    return Readout(self.readout, name='readout')(y).swapaxes(0, 1), Complex.of(last)


@jax.custom_jvp
def bounded_root(x: jax.Array) -> jax.Array:
  """sqrt(x) whose derivative is at most `LARGEST_SLOPE`; at 0 the root's own is infinite."""
  return jnp.sqrt(x)


@bounded_root.defjvp
def _bounded_slope(primals, tangents):
  (x,), (dx,) = primals, tangents
  root = jnp.sqrt(x)
  return root, dx / jnp.maximum(2 * root, 1 / LARGEST_SLOPE)


class RGLRUState(NamedTuple):
  """The memory of Griffin's recurrent block."""

  convolution: State
  hidden: jax.Array  # [B, D]


class RGLRU(SequenceLayer):
  """Griffin's recurrent block: a real-gated linear recurrent unit behind a short convolution.

  `num_heads` is the number of blocks of the gates' matrices.
  """

  num_heads: int = 4
  kernel_size: int = 4

  sharpness: ClassVar[float] = 8.0  # c
  padding_takes_time: ClassVar[bool] = True  # in the convolution

  def __post_init__(self):
    super().__post_init__()
    at_least(self, 1, 'num_heads', 'kernel_size')

  @property
  def width_multiple(self):
    """Blocks of equal width."""
    return self.num_heads

  def _convolution(self, **place):
    return ShortConvolution(self.kernel_size, **place)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Zeros, and what the convolution starts from."""
    convolution = self._convolution(parent=None)
    return RGLRUState(
      convolution.initial_state(batch_size, capacity, width, dtype), jnp.zeros((batch_size, width))
    )

  def _lambda(self, key, shape):
    """Lambda for a^c that is uniform between 0.9 and 0.999 (section 2.4)."""
    log_a = jnp.log(jax.random.uniform(key, shape, minval=0.9, maxval=0.999)) / self.sharpness
    return log_a - jnp.log(-jnp.expm1(log_a))

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    suits(self, width)
    if state is None:
      state = self.initial_state(batch_size, length, width, x.dtype)
    x = masked(x, mask)
    branch = jax.nn.gelu(nn.Dense(width, dtype=x.dtype, name='branch')(x))
    u = nn.Dense(width, dtype=x.dtype, name='input')(x)
    u, convolution = self._convolution(name='convolution')(u, state.convolution, mask=mask)
    u, mask = time_first(u, mask)

    block = width // self.num_heads
    blocks = u.reshape(length, batch_size, self.num_heads, block)
    shape = (self.num_heads, block, 2, block)
    kernel = self.param('gate_kernel', nn.initializers.lecun_normal(1, -1, (0, 2)), shape)
    bias = self.param('gate_bias', nn.initializers.zeros, (2, width))
    gates = jnp.einsum('TBHK,HKGJ->GTBHJ', blocks, kernel.astype(x.dtype)).astype(jnp.float32)
    gates = jax.nn.sigmoid(gates.reshape(2, *u.shape) + bias[:, None, None])
    log_a = jax.nn.log_sigmoid(self.param('lambda', self._lambda, (width,)))
    log_decay = self.sharpness * gates[0] * log_a[None, None]
    gain = bounded_root(-jnp.expm1(2 * log_decay))
    y, hidden = linear_scan(jnp.exp(log_decay), gain * gates[1] * u, state.hidden, mask)
    y = branch * y.swapaxes(0, 1).astype(x.dtype)
    return nn.Dense(width, dtype=x.dtype, name='output')(y), RGLRUState(convolution, hidden)
