"""Attention without a softmax and with a matrix state per head (linear attention, RetNet, GLA).

  sum_{s <= t} (q_t . k_s) v_s = S_t^T q_t,  S_t = S_{t-1} + k_t v_t^T

The state S is a sum of outer products that replaces all previous keys and values. The layers differ
in how S decays.

  linear attention   y_t = S_t^T phi(q_t) / (z_t . phi(q_t)),  S_t = S_{t-1} + phi(k_t) v_t^T,
                     z_t = z_{t-1} + phi(k_t),  phi = elu + 1    (Katharopoulos et al. 2020, 18-20)
  RetNet             S_t = gamma_h S_{t-1} + k_t v_t^T,  gamma_h = 1 - 2^(-5-h), h = 0 .. H - 1,
                     with rotary positions on q and k                (Sun et al. 2023, 6 and 8)
  GLA                S_t = diag(a_t) S_{t-1} + k_t v_t^T,
                     a_t = sigmoid(x W_1 W_2 + b)^(1/16), W_1 narrow    (Yang et al. 2024, 4.4)

The outputs of RetNet and GLA are y = W (swish(x W_g) * norm(S_t^T q_t / sqrt(K))), with a norm per
head.
"""

import fractions
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from baselines.activations import log_sigmoid, multiply_by_silu
from baselines.matrix_scans import check_scan_form_and_chunk_size, outer_product_scan, safe_divide
from transformer.dense import DenseGeneral
from transformer.layer import SequenceLayer, apply_mask
from transformer.normalization import LayerNorm
from transformer.options import (
  check_width,
  require_one_of,
  require_option_values_at_least,
  require_option_values_greater_than,
)
from transformer.positions import Rotary

MAX_DENOMINATOR = 4096  # of the width of a head as a fraction of the model's width


def elu_plus_one(x: jax.Array) -> jax.Array:
  """Computes elu(x) + 1 as exp(min(x, 0)) + max(x, 0), without cancellation."""
  return jnp.exp(jnp.minimum(x, 0)) + jnp.maximum(x, 0)


FEATURE_MAPS = {'elu': elu_plus_one, 'softmax': jax.nn.softmax}
FREQUENCIES = ('rope', 'torchscale')  # of the rotary positions in RetNet


class MatrixStateLayer(SequenceLayer):
  """Base class of layers whose state is a matrix [K, V] for each head.

  `key_expand` D and `value_expand` D are the total widths of the keys and of the values over all
  heads. `chunk_size` is the number of tokens that are processed in parallel, where 0 chooses by
  platform. It affects the speed but not the result.
  """

  num_heads: int = 4
  chunk_size: int = 0

  key_expand: ClassVar[float] = 1.0
  value_expand: ClassVar[float] = 1.0
  key_multiple: ClassVar[int] = 1  # the key width of a head is a multiple of it

  def __post_init__(self):
    super().__post_init__()
    require_option_values_at_least(self, 1, 'num_heads')
    require_option_values_greater_than(self, 0, 'key_expand', 'value_expand')
    smallest_expand = min(self.key_expand / self.key_multiple, self.value_expand)
    if self.num_heads > MAX_DENOMINATOR * smallest_expand:
      raise ValueError(
        f'{type(self).__name__} has {self.num_heads} heads, too many for a key_expand of '
        f'{self.key_expand:g} and a value_expand of {self.value_expand:g}'
      )
    check_scan_form_and_chunk_size('auto', self.chunk_size)

  @property
  def required_width_divisor(self):
    units = (self.key_expand, self.key_multiple), (self.value_expand, 1)
    shares = (fractions.Fraction(expand) / (self.num_heads * unit) for expand, unit in units)
    return math.lcm(*(share.limit_denominator(MAX_DENOMINATOR).denominator for share in shares))

  def head_widths(self, width: int) -> tuple[int, int]:
    """The key width K and the value width V of a head, given the width of the model.

    Raises:
      ValueError: if the heads cannot have equal widths.

    """
    check_width(self, width)
    return tuple(round(width * e / self.num_heads) for e in (self.key_expand, self.value_expand))

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    return jnp.zeros((batch_size, self.num_heads, *self.head_widths(width)))

  def _project(self, x, name, *features, use_bias=False):
    """Projects x [B, T, D] to [B, T, *features] by a dense layer with the given name."""
    return DenseGeneral(features, use_bias=use_bias, dtype=x.dtype, name=name)(x)

  def _output_projection(self, y, width):
    """Projects y [B, T, H, V] to [B, T, D] by the last dense layer."""
    return DenseGeneral(width, (-2, -1), use_bias=False, dtype=y.dtype, name='output')(y)

  def _gated_output(self, y, gate, width):
    """Computes the layer output W (swish(gate) * norm(y)) [B, T, D] for y [B, T, H, V]."""
    norm = LayerNorm(feature_axes=(-2, -1), name='norm')
    return self._output_projection(multiply_by_silu(norm(y).astype(gate.dtype), gate), width)


class LinearAttention(MatrixStateLayer):
  """Linear attention without decay, with scores phi(q)^T phi(k) in place of exp(q^T k)."""

  feature_map: str = 'elu'

  def __post_init__(self):
    super().__post_init__()
    require_one_of(self, 'feature_map', FEATURE_MAPS)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Returns zeros [B, H, K, V + 1], with a last column for the sum z of the key features."""
    key_width, value_width = self.head_widths(width)
    return jnp.zeros((batch_size, self.num_heads, key_width, value_width + 1))

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    if state is None:
      state = self.initial_state(batch_size, length, width)
    x = apply_mask(x, mask)
    projected = self._project(x, 'projection', 3, self.num_heads, width // self.num_heads)
    query, key, value = (
      x[:, :, 0].astype(jnp.float32) for x in jnp.split(projected, 3, 2))
    feature_map = FEATURE_MAPS[self.feature_map]
    # If all features of a query are below 1, they are scaled so that the largest feature is 1.
    # The scaling prevents underflow and cancels in the quotient y.
    query -= jax.lax.stop_gradient(jnp.minimum(query.max(-1, keepdims=True), 0))
    query, key = feature_map(query), apply_mask(feature_map(key), mask)
    value = jnp.concatenate([value, jnp.ones_like(value[..., :1])], -1)
    y, state = outer_product_scan(query, key, value, None, state, chunk_size=self.chunk_size)
    y = safe_divide(y[..., :-1], y[..., -1:])  # Before the first valid token the sum is 0.
    return self._output_projection(y.astype(x.dtype), width), state


class RetNetState(NamedTuple):
  """State of a RetNet layer."""

  memory: jax.Array  # [B, H, K, V]
  index: jax.Array  # [], the number of tokens so far


class RetNet(MatrixStateLayer):
  """Multi-scale retention of RetNet, with a different fixed decay for each head.

  `frequencies` are the rotation frequencies of the K / 2 channel pairs i = 0 .. K / 2 - 1. 'rope'
  is 10000^(-i / (K / 2)), the usual frequency of rotary positions. 'torchscale' is
  10000^(-i / (K / 2 - 1)), as in the authors' code, which pairs adjacent channels instead of the
  two halves. The pairing only changes the order of the key channels.
  """

  key_expand: float = 1.0
  value_expand: float = 2.0
  frequencies: str = 'rope'

  key_multiple: ClassVar[int] = Rotary.required_head_width_divisor
  padding_occupies_positions: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    require_one_of(self, 'frequencies', FREQUENCIES)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    memory = super().initial_state(batch_size, capacity, width)
    return RetNetState(memory, jnp.zeros((), jnp.int32))

  def _rotate_by_position(self, x, start):
    """Applies rotary embeddings to x [B, T, H, K] at the positions start, start + 1, ..."""
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
    x = apply_mask(x, mask)
    key_width, value_width = self.head_widths(width)
    projected = self._project(x, 'query_key', 2, self.num_heads, key_width)
    query, key = (
      self._rotate_by_position(x[:, :, 0], state.index) for x in jnp.split(projected, 2, 2))
    projected = self._project(x, 'value_gate', 2, self.num_heads, value_width)
    value, gate = (x[:, :, 0] for x in jnp.split(projected, 2, 2))

    log_decay = jnp.log1p(-jnp.exp2(-5.0 - jnp.arange(self.num_heads)))
    if mask is not None:
      log_decay = jnp.where(mask[..., None], log_decay[None, None], 0)
    y, memory = outer_product_scan(
      query * key_width**-0.5, key, value, log_decay, state.memory, chunk_size=self.chunk_size
    )
    return self._gated_output(y, gate, width), RetNetState(memory, state.index + length)


class GLA(MatrixStateLayer):
  """Gated linear attention, with an input-dependent decay of each key channel.

  `gate_rank` is the width between W_1 and W_2. The decay is the `temperature`-th root of a sigmoid,
  which keeps it near 1 before training.
  """

  key_expand: float = 0.5
  value_expand: float = 1.0
  gate_rank: int = 16
  temperature: float = 16.0

  def __post_init__(self):
    super().__post_init__()
    require_option_values_at_least(self, 1, 'gate_rank')
    require_option_values_greater_than(self, 0, 'temperature')

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    if state is None:
      state = self.initial_state(batch_size, length, width)
    x = apply_mask(x, mask)
    key_width, value_width = self.head_widths(width)
    projected = self._project(x, 'query_key', 2, self.num_heads, key_width)
    query, key = (x[:, :, 0] for x in jnp.split(projected, 2, 2))
    value = self._project(x, 'value', self.num_heads, value_width)
    gate = self._project(x, 'gate', self.num_heads, value_width, use_bias=True)

    low = self._project(x, 'decay_down', self.gate_rank)
    decay = self._project(low, 'decay_up', self.num_heads, key_width, use_bias=True)
    log_decay = apply_mask(log_sigmoid(decay.astype(jnp.float32)) / self.temperature, mask)
    y, state = outer_product_scan(
      query * key_width**-0.5, key, value, log_decay, state, chunk_size=self.chunk_size
    )
    return self._gated_output(y, gate, width), state
