"""Mamba-2: a state space whose step depends on the input, as linear attention with a decay a head.

  z, x, B, C, d = W u                    one projection; a short convolution and swish over x, B, C
  d_t = softplus(d_t + b),  a_t = exp(-d_t A),  A > 0 and b a number a head
  S_t = a_t S_{t-1} + B_t (d_t x_t)^T,  y_t = S_t^T C_t + D x_t
                                         S is [N, P] in each head; all heads share B and C
  out = W norm(y * swish(z))                         (Dao and Gu 2024, sections 3, 6 and 7)

In the words of attention C is the query, B the key and d x the value. Eigenvalues in [-1, 1] are
a_t = 2 exp(-d_t A) - 1 (Grazzi et al. 2025): a state that can turn its sign can count modulo two.
"""

import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from baselines.convolution import ShortConvolution
from baselines.discretization import step_bias
from baselines.matrix_scans import check_form, outer_product_scan
from baselines.scans import EIGENVALUES
from transformer.layer import SequenceLayer, masked
from transformer.normalization import RMSNorm
from transformer.options import at_least, one_of, suits


def log_rates(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """An initialiser: the logarithms of rates A that are uniform between 1 and 16."""
  return jnp.log(jax.random.uniform(key, shape, minval=1.0, maxval=16.0))


class StateSpace(NamedTuple):
  """Mamba-2's memory."""

  convolution: jax.Array  # [B, kernel_size - 1, E D + 2 N] the latest inputs
  memory: jax.Array  # [B, H, N, P]


class Mamba2(SequenceLayer):
  """State space duality: `expand` D channels in `num_heads` heads, a state of N for each channel.

  `chunk_size` is how many tokens are read at once (0: what is fastest); it changes no number.
  """

  num_heads: int = 4
  state_size: int = 64
  expand: int = 2
  kernel_size: int = 4
  eigenvalues: str = '[0,1]'
  chunk_size: int = 0

  padding_takes_time: ClassVar[bool] = True  # in the convolution

  def __post_init__(self):
    super().__post_init__()
    at_least(self, 1, 'num_heads', 'state_size', 'expand', 'kernel_size')
    one_of(self, 'eigenvalues', EIGENVALUES)
    check_form('auto', self.chunk_size)

  @property
  def width_multiple(self):
    """Heads of equal width."""
    return self.num_heads // math.gcd(self.num_heads, self.expand)

  def head_width(self, width: int) -> int:
    """P; a ValueError if the heads do not share the channels equally."""
    suits(self, width)
    return self.expand * width // self.num_heads

  def _convolution(self, **arguments):
    return ShortConvolution(self.kernel_size, **arguments)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Zeros; the convolution stores inputs."""
    channels = self.expand * width + 2 * self.state_size
    memory = jnp.zeros((batch_size, self.num_heads, self.state_size, self.head_width(width)))
    convolution = self._convolution(parent=None)
    return StateSpace(convolution.initial_state(batch_size, capacity, channels, dtype), memory)

  def decay(self, rate, mask):
    """Log |a| and where a < 0 (None: nowhere) for d A >= 0 [B, T, H]; a = 1 under the mask."""
    if self.eigenvalues == '[0,1]':
      return masked(-rate, mask), None
    lost = -2 * jnp.expm1(-rate)  # 1 - a, between 0 and 2
    # |a| = 1 - (1 - a) or 1 - (1 + a), and never 0, whose logarithm has no gradient.
    log_decay = jnp.log1p(-jnp.minimum(jnp.minimum(lost, 2 - lost), 1 - 2.0**-24))
    return masked(log_decay, mask), masked(lost > 1, mask)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    if state is None:
      state = self.initial_state(batch_size, length, width, x.dtype)
    heads, size, inner = (self.num_heads,), self.state_size, self.expand * width
    projection = nn.Dense(
      2 * inner + 2 * size + self.num_heads, use_bias=False, dtype=x.dtype, name='input'
    )
    projected = projection(masked(x, mask))
    gate, convolved, step = jnp.split(projected, (inner, 2 * inner + 2 * size), -1)
    convolved, latest = self._convolution(name='convolution')(
      convolved, state.convolution, mask=mask, train=train
    )
    convolved = jax.nn.silu(convolved).astype(jnp.float32)
    value, key, query = jnp.split(convolved, (inner, inner + size), -1)
    value = value.reshape(batch_size, length, self.num_heads, self.head_width(width))

    bias = self.param('step_bias', step_bias, heads)
    step = jax.nn.softplus(step.astype(jnp.float32) + bias[None, None])
    log_rate = self.param('log_rate', log_rates, heads)
    log_decay, negative = self.decay(step * jnp.exp(log_rate)[None, None], mask)
    y, memory = outer_product_scan(
      query[:, :, None], key[:, :, None], masked(value * step[..., None], mask), log_decay,
      state.memory, negative=negative, chunk_size=self.chunk_size,
    )
    y += self.param('skip', nn.initializers.ones, heads)[None, None, :, None] * value
    y = y.reshape(batch_size, length, inner).astype(x.dtype) * jax.nn.silu(gate)
    y = RMSNorm(epsilon=1e-5, dtype=x.dtype, name='norm')(y)
    return nn.Dense(width, use_bias=False, dtype=x.dtype, name='output')(y), StateSpace(
      latest, memory
    )
