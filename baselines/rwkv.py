"""RWKV-7: a delta rule whose decay, removal and rate differ from channel to channel.

  x^c_t = x_t + mu_c (x_{t-1} - x_t)  for c in r, w, k, v, a, g                (token shift)
  r = W_r x^r,  k = W_k x^k,  v = W_v x^v,  g = low(x^g, sigmoid)
  w = exp(-e^{-1/2} sigmoid(b_w + low(x^w, tanh))),  a = sigmoid(b_a + low(x^a))
  kappa = unit(k xi),  k' = k (1 + alpha (a - 1))                removal and replacement key
  S_t = (diag(w_t) - (a_t kappa_t) kappa_t^T) S_{t-1} + k'_t v_t^T
  y = W_o (g (norm(S_t^T r_t) + (r_t . rho k'_t) v_t))

in H heads, low(x, f) = W' f(W x) of low rank (Peng et al. 2025, section 4; their S is the
transpose of ours). w > exp(-e^{-1/2}) = 0.545: over a chunk of 64 no sum of log w is below -39, so
that the chunked form is exact to rounding (delta_scans). Its steps' eigenvalues reach below 0 as it
was published. Left out: the mix of v with the first layer's, since a layer here sees its own input
alone, and the channel mixing, which is the model's feed-forward network.
"""

import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from baselines.delta_rule import initial_memory, l2_normalize
from baselines.delta_scans import generalised_delta_scan
from baselines.matrix_scans import check_form
from transformer.layer import SequenceLayer, masked
from transformer.normalization import LayerNorm
from transformer.options import at_least

LARGEST_CHUNK = 64


class RWKVState(NamedTuple):
  """What RWKV-7 remembers."""

  latest: jax.Array  # [B, 1, D] the latest token
  memory: jax.Array  # [B, H, K, K] what keys answer


def _shift(key, shape):
  """Mixing [C, D] of neighbours, as in the published first layer: less in the later channels."""
  power = jnp.array((0.2, 0.9, 0.7, 0.7, 0.9, 0.2))  # r, w, k, v, a, g
  return 1 - (jnp.arange(shape[1]) / shape[1])[None, :] ** power[:, None]


def _decay_bias(key, shape, dtype):
  """Time scales from 1100 tokens in the first channel to 9 in the last."""
  return jnp.linspace(-6.5, -1.5, shape[0], dtype=dtype)


class RWKV7(SequenceLayer):
  """The time mixing of RWKV-7."""

  num_heads: int = 4
  rank: int = 32  # of what makes decays, rates and gates
  chunk_size: int = 0  # 0: as suits the platform

  padding_takes_time: ClassVar[bool] = True  # in the shift

  def __post_init__(self):
    super().__post_init__()
    at_least(self, 1, 'num_heads', 'rank')
    check_form('auto', self.chunk_size)
    if self.chunk_size > LARGEST_CHUNK:
      raise ValueError(
        f'RWKV7 has chunk_size {self.chunk_size}; beyond {LARGEST_CHUNK} it would not be exact'
      )

  @property
  def width_multiple(self):
    """Heads of equal width."""
    return self.num_heads

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Zeros stand before the first token and in the memory."""
    latest = jnp.zeros((batch_size, 1, width), dtype)
    return RWKVState(latest, initial_memory(self, batch_size, width))

  def _low_rank(self, x, name, activation, bias_init=None):
    """W' f(W x) + b in float32; constant at the start."""
    width = x.shape[-1]
    zeros = nn.initializers.zeros
    x = nn.Dense(self.rank, use_bias=False, kernel_init=zeros, dtype=x.dtype, name=name + '_in')(x)
    bias = {} if bias_init is None else {'bias_init': bias_init}
    out = nn.Dense(width, use_bias=bool(bias), dtype=x.dtype, name=name + '_out', **bias)
    return out(activation(x)).astype(jnp.float32)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    if state is None:
      state = self.initial_state(batch_size, length, width, x.dtype)
    x = masked(x, mask)
    read = jnp.concatenate([state.latest.astype(x.dtype), x], 1)
    shift = self.param('shift', _shift, (6, width))
    change = (read[:, :-1] - x).astype(jnp.float32)
    x_r, x_w, x_k, x_v, x_a, x_g = (
      (x + change * mu[None, None]).astype(x.dtype) for mu in shift
    )

    def heads(z):  # [B, T, D] -> [B, T, H, K]
      shape = (batch_size, length, self.num_heads, width // self.num_heads)
      return z.astype(jnp.float32).reshape(shape)

    def project(z, name):
      return heads(nn.Dense(width, use_bias=False, dtype=x.dtype, name=name)(z))

    def scale(name, value):
      shape = (self.num_heads, width // self.num_heads)
      return self.param(name, nn.initializers.constant(value), shape)[None, None]

    receptance, key, value = project(x_r, 'receptance'), project(x_k, 'key'), project(x_v, 'value')
    decay = heads(self._low_rank(x_w, 'decay', jnp.tanh, _decay_bias))
    log_decay = -math.exp(-0.5) * jax.nn.sigmoid(decay)
    rate = heads(self._low_rank(x_a, 'rate', lambda z: z, nn.initializers.zeros))
    rate = jax.nn.sigmoid(rate)
    removal = l2_normalize(key * scale('removal', 0.85))
    key *= 1 + scale('replacement', 1.0) * (rate - 1)

    log_decay, rate, key = (masked(z, mask) for z in (log_decay, rate, key))
    y, memory = generalised_delta_scan(
      receptance, key, value, removal, rate, log_decay, state.memory, chunk_size=self.chunk_size
    )
    epsilon = 1e-5 * y.shape[-1]  # 64e-5 at the published width of a head
    y = LayerNorm(epsilon, feature_axes=(-2, -1), name='norm')(y)
    y += jnp.sum(receptance * scale('bonus', 0.0) * key, -1, keepdims=True) * value
    y *= heads(self._low_rank(x_g, 'gate', jax.nn.sigmoid))
    y = nn.Dense(width, use_bias=False, dtype=x.dtype, name='output')(
      y.reshape(x.shape).astype(x.dtype)
    )
    return y, RWKVState(read[:, length:].astype(state.latest.dtype), memory)
