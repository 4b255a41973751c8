"""Mamba-2, a selective state space computed as linear attention with a decay per head.

  z, x, B, C, d = W u                    one projection; short convolution and swish of x, B, C
  d_t = softplus(d_t + b),  a_t = exp(-d_t A),  A > 0 and b are scalars per head
  S_t = a_t S_{t-1} + B_t (d_t x_t)^T,  y_t = S_t^T C_t + D x_t
                                         S is [N, P] in each head; all heads share B and C
  out = W norm(y * swish(z))                         (Dao and Gu 2024, sections 3, 6 and 7)

In terms of attention, C is the query, B the key and d x the value. Eigenvalues in [-1, 1] are
a_t = 2 exp(-d_t A) - 1 (Grazzi et al. 2025). A state that can change its sign can count modulo 2.
"""

import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from baselines.activations import multiply_by_silu, silu, softplus
from baselines.convolution import ShortConvolution
from baselines.discretization import time_step_bias_initializer
from baselines.matrix_scans import check_scan_form_and_chunk_size, outer_product_scan
from baselines.scans import EIGENVALUES
from transformer.broadcasting import add_to_channels, multiply_channels, multiply_tokens
from transformer.dense import Dense
from transformer.layer import SequenceLayer, apply_mask
from transformer.normalization import RMSNorm
from transformer.options import check_width, require_one_of, require_option_values_at_least


def log_decay_rate_initializer(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Initializes the logarithms of decay rates A that are uniform between 1 and 16."""
  return jnp.log(jax.random.uniform(key, shape, minval=1.0, maxval=16.0))


class Mamba2State(NamedTuple):
  """State of a Mamba-2 layer."""

  convolution: jax.Array  # [B, kernel_size - 1, E D + 2 N], the latest inputs of the convolution
  memory: jax.Array  # [B, H, N, P], the state S


class Mamba2(SequenceLayer):
  """Mamba-2, a selective state space layer with a scalar decay per head.

  The layer has E D channels in `num_heads` heads, and N state variables per channel. E is `expand`,
  N is `state_size`, and D is the width of the model. `chunk_size` is the number of tokens that are
  processed in parallel, where 0 chooses by platform. It affects the speed but not the result.
  """

  num_heads: int = 4
  state_size: int = 64
  expand: int = 2
  kernel_size: int = 4
  eigenvalues: str = '[0,1]'
  chunk_size: int = 0

  padding_occupies_positions: ClassVar[bool] = True  # because of the convolution

  def __post_init__(self):
    super().__post_init__()
    require_option_values_at_least(self, 1, 'num_heads', 'state_size', 'expand', 'kernel_size')
    require_one_of(self, 'eigenvalues', EIGENVALUES)
    check_scan_form_and_chunk_size('auto', self.chunk_size)

  @property
  def required_width_divisor(self):
    return self.num_heads // math.gcd(self.num_heads, self.expand)

  def head_width(self, width: int) -> int:
    """The number P of channels per head, given the width of the model.

    Raises:
      ValueError: if the channels cannot be split equally between the heads.

    """
    check_width(self, width)
    return self.expand * width // self.num_heads

  def _short_convolution(self, **options):
    return ShortConvolution(self.kernel_size, **options)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    channels = self.expand * width + 2 * self.state_size
    memory = jnp.zeros((batch_size, self.num_heads, self.state_size, self.head_width(width)))
    convolution = self._short_convolution(parent=None)
    return Mamba2State(convolution.initial_state(batch_size, capacity, channels, dtype), memory)

  def log_abs_decay_and_is_negative(self, rate, mask):
    """Returns log |a| for the decay a of every step, and a mask that is true where a is negative.

    The rate is d A >= 0 [B, T, H], the step length times the decay rate. At padding a is 1. The
    returned mask is None if no a can be negative.
    """
    if self.eigenvalues == '[0,1]':
      return apply_mask(-rate, mask), None
    complement = -2 * jnp.expm1(-rate)  # 1 - a, between 0 and 2
    # Because a is between -1 and 1, the smaller of 1 - a and 1 + a equals 1 - |a|.
    absolute_complement = jnp.minimum(complement, 2 - complement)
    # The logarithm of |a| is computed from 1 - |a| by log1p, which is accurate for |a| near 1.
    # The upper bound on 1 - |a| keeps |a| above 0, because log |a| has no finite gradient at 0.
    log_decay = jnp.log1p(-jnp.minimum(absolute_complement, 1 - 2.0**-24))
    return apply_mask(log_decay, mask), apply_mask(complement > 1, mask)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    past = None if state is None else state.convolution
    if state is None:
      state = self.initial_state(batch_size, length, width, x.dtype)
    heads, size, inner = (self.num_heads,), self.state_size, self.expand * width
    projection = Dense(
      2 * inner + 2 * size + self.num_heads, use_bias=False, dtype=x.dtype, name='input'
    )
    projected = projection(apply_mask(x, mask))
    gate, convolved, step = jnp.split(projected, (inner, 2 * inner + 2 * size), -1)
    convolved, latest = self._short_convolution(name='convolution')(
      convolved, past, mask=mask, train=train
    )
    convolved = silu(convolved).astype(jnp.float32)
    value, key, query = jnp.split(convolved, (inner, inner + size), -1)
    value = value.reshape(batch_size, length, self.num_heads, self.head_width(width))

    bias = self.param('step_bias', time_step_bias_initializer, heads)
    step = softplus(add_to_channels(step.astype(jnp.float32), bias))
    log_rate = self.param('log_rate', log_decay_rate_initializer, heads)
    rate = multiply_channels(step, jnp.exp(log_rate))
    log_decay, negative = self.log_abs_decay_and_is_negative(rate, mask)
    scaled = apply_mask(multiply_tokens(value, step[..., None]), mask)
    y, memory = outer_product_scan(
      query[:, :, None], key[:, :, None], scaled, log_decay, state.memory, negative=negative,
      chunk_size=self.chunk_size,
    )
    skip = self.param('skip', nn.initializers.ones, heads)
    y += multiply_channels(value, jnp.broadcast_to(skip[:, None], value.shape[2:]))
    y = multiply_by_silu(y.reshape(batch_size, length, inner).astype(x.dtype), gate)
    y = RMSNorm(epsilon=1e-5, dtype=x.dtype, name='norm')(y)
    y = Dense(width, use_bias=False, dtype=x.dtype, name='output')(y)
    return y, Mamba2State(latest, memory)
