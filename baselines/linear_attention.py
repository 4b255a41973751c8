"""Linear attention: without the softmax, attention is a recurrence whose state is a matrix a head.

  sum_{s <= t} (q_t . k_s) v_s = S_t^T q_t,  S_t = S_{t-1} + k_t v_t^T: a sum of outer products that
replaces all keys and values. What the layers differ in is how it forgets:

  linear attention   y_t = S_t^T phi(q_t) / (z_t . phi(q_t)),  S_t = S_{t-1} + phi(k_t) v_t^T,
                     z_t = z_{t-1} + phi(k_t),  phi = elu + 1    (Katharopoulos et al. 2020, 18-20)
  retention          S_t = gamma_h S_{t-1} + k_t v_t^T,  gamma_h = 1 - 2^(-5-h), h = 0 .. H - 1,
                     q and k turned by their position                (Sun et al. 2023, 6 and 8)
  GLA                S_t = diag(a_t) S_{t-1} + k_t v_t^T,
                     a_t = sigmoid(x W_1 W_2 + b)^(1/16), W_1 narrow    (Yang et al. 2024, 4.4)

The last two read out y = W (swish(x W_g) * norm(S_t^T q_t / sqrt(K))), the norm in each head.
"""

import fractions
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from baselines.matrix_scans import check_form, normalised, outer_product_scan
from transformer.layer import SequenceLayer, masked
from transformer.normalization import LayerNorm
from transformer.options import above, at_least, one_of, suits
from transformer.positions import Rotary

CUTS = 4096  # at most, into which a width is cut for the heads


def elu_plus_one(x: jax.Array) -> jax.Array:
  """elu(x) + 1 as exp(min(x, 0)) + max(x, 0), in which nothing cancels."""
  return jnp.exp(jnp.minimum(x, 0)) + jnp.maximum(x, 0)


FEATURE_MAPS = {'elu': elu_plus_one, 'softmax': jax.nn.softmax}
FREQUENCIES = ('rope', 'torchscale')  # of retention's turns


def log_sigmoid(x: jax.Array) -> jax.Array:
  """log(1 / (1 + exp(-x))) by way of log, which vectorises on a CPU where log1p does not."""
  return jnp.minimum(x, 0) - jnp.log(1 + jnp.exp(jnp.minimum(x, -x)))


class MatrixMemory(SequenceLayer):
  """What the family shares: heads with keys and values of their widths, and a matrix for each.

  `key_expand` D and `value_expand` D are the widths of all keys and of all values together.
  `chunk_size` is how many tokens are read at once (0: what is fastest); it changes no number.
  """

  num_heads: int = 4
  chunk_size: int = 0

  key_expand: ClassVar[float] = 1.0
  value_expand: ClassVar[float] = 1.0
  key_multiple: ClassVar[int] = 1  # of a head

  def __post_init__(self):
    super().__post_init__()
    at_least(self, 1, 'num_heads')
    above(self, 0, 'key_expand', 'value_expand')
    least = min(self.key_expand / self.key_multiple, self.value_expand)
    if self.num_heads > CUTS * least:
      raise ValueError(
        f'{type(self).__name__} has {self.num_heads} heads: they are too many for a key_expand of '
        f'{self.key_expand:g} and a value_expand of {self.value_expand:g}'
      )
    check_form('auto', self.chunk_size)

  @property
  def width_multiple(self):
    """Heads of equal key width and of equal value width."""
    key, value = (
      (fractions.Fraction(expand) / (self.num_heads * multiple)).limit_denominator(CUTS).denominator
      for expand, multiple in ((self.key_expand, self.key_multiple), (self.value_expand, 1))
    )
    return math.lcm(key, value)

  def head_widths(self, width: int) -> tuple[int, int]:
    """K and V; a ValueError if the heads do not share the width equally."""
    suits(self, width)
    return tuple(round(width * e / self.num_heads) for e in (self.key_expand, self.value_expand))

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Zeros [B, H, K, V]."""
    return jnp.zeros((batch_size, self.num_heads, *self.head_widths(width)))

  def project(self, x, name, *features, use_bias=False):
    """A linear map of x [B, T, D] to [B, T, *features]."""
    return nn.DenseGeneral(features, use_bias=use_bias, dtype=x.dtype, name=name)(x)

  def read_out(self, y, gate, width):
    """W (swish(gate) * norm(y)) for y [B, T, H, V] in float32, in the dtype of the gate."""
    norm = LayerNorm(feature_axes=(-2, -1), name='norm')
    y = norm(y).astype(gate.dtype) * jax.nn.silu(gate)
    return nn.DenseGeneral(width, (-2, -1), use_bias=False, dtype=gate.dtype, name='output')(y)


class LinearAttention(MatrixMemory):
  """Attention with the kernel phi(q) . phi(k) in place of exp(q . k); it forgets nothing."""

  feature_map: str = 'elu'

  def __post_init__(self):
    super().__post_init__()
    one_of(self, 'feature_map', FEATURE_MAPS)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Zeros [B, H, K, V + 1]: the last column is z, a value that is always 1."""
    key_width, value_width = self.head_widths(width)
    return jnp.zeros((batch_size, self.num_heads, key_width, value_width + 1))

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    if state is None:
      state = self.initial_state(batch_size, length, width)
    x = masked(x, mask)
    projected = self.project(x, 'projection', 3, self.num_heads, width // self.num_heads)
    query, key, value = (projected[:, :, i].astype(jnp.float32) for i in range(3))
    feature_map = FEATURE_MAPS[self.feature_map]
    # Features of a query that are all below 1 are scaled up to 1, which the quotient does not see.
    query -= jax.lax.stop_gradient(jnp.minimum(query.max(-1, keepdims=True), 0))
    query, key = feature_map(query), masked(feature_map(key), mask)
    value = jnp.concatenate([value, jnp.ones_like(value[..., :1])], -1)
    y, state = outer_product_scan(query, key, value, None, state, chunk_size=self.chunk_size)
    y = normalised(y[..., :-1], y[..., -1:])  # before the first valid token the sum is 0
    y = y.astype(x.dtype)
    return nn.DenseGeneral(width, (-2, -1), use_bias=False, dtype=x.dtype, name='output')(y), state


class Retention(NamedTuple):
  """Retention's memory."""

  memory: jax.Array  # [B, H, K, V]
  index: jax.Array  # [] how many tokens were read


class RetNet(MatrixMemory):
  """Multi-scale retention: each head forgets at a rate of its own, which is not learnt.

  `frequencies` says how fast the K / 2 pairs of channels turn: with i = 0 .. K / 2 - 1, 'rope' has
  10000^(-i / (K / 2)), as rotary positions do elsewhere, and 'torchscale' 10000^(-i / (K / 2 - 1)),
  as the authors' code does (which pairs neighbours, not halves: the same up to an order of keys).
  """

  key_expand: float = 1.0
  value_expand: float = 2.0
  frequencies: str = 'rope'

  key_multiple: ClassVar[int] = Rotary.head_multiple
  padding_takes_time: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    one_of(self, 'frequencies', FREQUENCIES)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Zeros at position 0."""
    memory = super().initial_state(batch_size, capacity, width)
    return Retention(memory, jnp.zeros((), jnp.int32))

  def _turn(self, x, start):
    """Turns x [B, T, H, K] by its positions."""
    index, half = start + jnp.arange(x.shape[1]), x.shape[-1] // 2
    rotary = Rotary(parent=None)
    if self.frequencies == 'torchscale' and half > 1:
      rotary = Rotary(rotary.base ** (half / (half - 1)), parent=None)
    return rotary.rotate(x.swapaxes(1, 2), index).swapaxes(1, 2)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    if state is None:
      state = self.initial_state(batch_size, length, width)
    x = masked(x, mask)
    key_width, value_width = self.head_widths(width)
    projected = self.project(x, 'query_key', 2, self.num_heads, key_width)
    query, key = (self._turn(projected[:, :, i], state.index) for i in range(2))
    projected = self.project(x, 'value_gate', 2, self.num_heads, value_width)
    value, gate = projected[:, :, 0], projected[:, :, 1]

    log_decay = jnp.log1p(-jnp.exp2(-5.0 - jnp.arange(self.num_heads)))
    if mask is not None:
      log_decay = jnp.where(mask[..., None], log_decay[None, None], 0)
    y, memory = outer_product_scan(
      query * key_width**-0.5, key, value, log_decay, state.memory, chunk_size=self.chunk_size
    )
    return self.read_out(y, gate, width), Retention(memory, state.index + length)


class GLA(MatrixMemory):
  """Gated linear attention: each key channel forgets as the input says.

  `gate_rank` is the width between W_1 and W_2; `temperature` is the root that is taken of the
  sigmoid, so that a gate that is not trained yet remembers.
  """

  key_expand: float = 0.5
  value_expand: float = 1.0
  gate_rank: int = 16
  temperature: float = 16.0

  def __post_init__(self):
    super().__post_init__()
    at_least(self, 1, 'gate_rank')
    above(self, 0, 'temperature')

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    if state is None:
      state = self.initial_state(batch_size, length, width)
    x = masked(x, mask)
    key_width, value_width = self.head_widths(width)
    projected = self.project(x, 'query_key', 2, self.num_heads, key_width)
    query, key = projected[:, :, 0], projected[:, :, 1]
    value = self.project(x, 'value', self.num_heads, value_width)
    gate = self.project(x, 'gate', self.num_heads, value_width, use_bias=True)

    low = self.project(x, 'decay_down', self.gate_rank)
    decay = self.project(low, 'decay_up', self.num_heads, key_width, use_bias=True)
    log_decay = masked(log_sigmoid(decay.astype(jnp.float32)) / self.temperature, mask)
    y, state = outer_product_scan(
      query * key_width**-0.5, key, value, log_decay, state, chunk_size=self.chunk_size
    )
    return self.read_out(y, gate, width), state
