"""Layers whose memory corrects itself: what a key answers is replaced, not added to.

  q, k = unit(silu(conv(W x))),  v = silu(conv(W x)),  beta = sigmoid(W x)
  S_t = a_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T          (the recurrence: delta_scans)
  DeltaNet         a_t = 1,  y = W norm(S_t^T q_t)     (Schlag et al. 2021; Yang et al. 2024)
  Gated DeltaNet   a_t = exp(-exp(A) softplus(W x + b)),  y = W (norm(S_t^T q_t) silu(W x))
                                                       (Yang, Kautz and Hatamizadeh 2025)

in H heads, convolutions by channel, norm the root mean square of a head. A step's eigenvalues are
a_t and a_t (1 - beta_t). With beta = 2 sigmoid(W x) the latter lie in [-1, 1]: a step may reflect
the memory, and so count modulo 2 and track states (Grazzi et al. 2025).
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from baselines.convolution import ShortConvolution
from baselines.delta_scans import delta_scan
from baselines.discretization import step_bias
from baselines.mamba2 import log_rates
from baselines.matrix_scans import check_form
from baselines.scans import EIGENVALUES
from transformer.layer import SequenceLayer, masked
from transformer.normalization import RMSNorm
from transformer.options import at_least, one_of, suits


def l2_normalize(x: jax.Array) -> jax.Array:
  """The last axis at length 1; zeros stay zeros, with a finite gradient."""
  return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), -1, keepdims=True) + 1e-6)


def initial_memory(layer: SequenceLayer, batch_size: int, width: int) -> jax.Array:
  """Zeros [B, H, K, K]; a ValueError if the heads do not share the width equally."""
  suits(layer, width)
  size = width // layer.num_heads
  return jnp.zeros((batch_size, layer.num_heads, size, size))


class DeltaState(NamedTuple):
  """What a delta rule remembers."""

  latest: jax.Array  # [B, k - 1, 3 D] projections that the convolution still sees
  memory: jax.Array  # [B, H, K, K] what keys answer


class DeltaNet(SequenceLayer):
  """The delta rule with short convolutions."""

  num_heads: int = 4
  kernel_size: int = 4
  eigenvalues: str = '[0,1]'
  chunk_size: int = 0  # 0: as suits the platform

  padding_takes_time: ClassVar[bool] = True  # in the convolution

  def __post_init__(self):
    super().__post_init__()
    at_least(self, 1, 'num_heads', 'kernel_size')
    one_of(self, 'eigenvalues', EIGENVALUES)
    check_form('auto', self.chunk_size)

  @property
  def width_multiple(self):
    """Heads of equal width."""
    return self.num_heads

  def _convolution(self):
    return ShortConvolution(self.kernel_size, use_bias=False, parent=None)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Zeros, and no convolution has seen anything."""
    latest = self._convolution().initial_state(batch_size, capacity, 3 * width, dtype)
    return DeltaState(latest, initial_memory(self, batch_size, width))

  def log_decay(self, x):  # [B, T, D] -> [B, T, H]
    """Log a_t: nothing decays."""
    return jnp.zeros((*x.shape[:2], self.num_heads))

  def gated(self, y, x):  # [B, T, H, K], [B, T, D]
    """What of the normalised answer y goes on: all of it."""
    return y

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    if state is None:
      state = self.initial_state(batch_size, length, width, x.dtype)
    x = masked(x, mask)
    mixed = nn.Dense(3 * width, use_bias=False, dtype=x.dtype, name='projection')(x)
    mixed, latest = self._convolution().copy(name='convolution')(mixed, state.latest, mask=mask)
    mixed = jax.nn.silu(mixed.astype(jnp.float32))
    mixed = mixed.reshape(batch_size, length, 3, self.num_heads, width // self.num_heads)
    query, key, value = (mixed[:, :, i] for i in range(3))

    beta = nn.Dense(self.num_heads, use_bias=False, dtype=x.dtype, name='beta')(x)
    largest = 2 if self.eigenvalues == '[-1,1]' else 1
    beta = largest * jax.nn.sigmoid(beta.astype(jnp.float32))
    beta, log_decay = masked(beta, mask), masked(self.log_decay(x), mask)
    y, memory = delta_scan(
      l2_normalize(query), l2_normalize(key), value, beta, log_decay, state.memory,
      chunk_size=self.chunk_size,
    )
    y = self.gated(RMSNorm(dtype=x.dtype, name='norm')(y), x)
    y = nn.DenseGeneral(width, (-2, -1), use_bias=False, dtype=x.dtype, name='output')(y)
    return y, DeltaState(latest, memory)


class GatedDeltaNet(DeltaNet):
  """The delta rule with a memory that decays, as Mamba-2's does, and an answer that is gated."""

  def log_decay(self, x):
    """-exp(A) softplus(W x + b)."""
    step = nn.Dense(self.num_heads, bias_init=step_bias, dtype=x.dtype, name='step')(x)
    log_rate = self.param('log_rate', log_rates, (self.num_heads,))
    return -jnp.exp(log_rate)[None, None] * jax.nn.softplus(step.astype(jnp.float32))

  def gated(self, y, x):
    """The answer, times silu(W x)."""
    heads = y.shape[-2:]
    gate = nn.DenseGeneral(heads, use_bias=False, dtype=x.dtype, name='gate')(x)
    return y * jax.nn.silu(gate)
