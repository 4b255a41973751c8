"""RWKV-7, a delta rule with separate decay, removal and replacement rates for each channel.

  x^c_t = x_t + mu_c (x_{t-1} - x_t)  for c in r, w, k, v, a, g                (token shift)
  r = W_r x^r,  k = W_k x^k,  v = W_v x^v,  g = low(x^g, sigmoid)
  w = exp(-e^{-1/2} sigmoid(b_w + low(x^w, tanh))),  a = sigmoid(b_a + low(x^a))
  kappa = l2_normalize(k xi),  k' = k (1 + alpha (a - 1))       removal and replacement key
  S_t = (diag(w_t) - (a_t kappa_t) kappa_t^T) S_{t-1} + k'_t v_t^T
  y = W_o (g (norm(S_t^T r_t) + (r_t . rho k'_t) v_t))

There are H heads, and low(x, f) = W' f(W x) has low rank (Peng et al. 2025, section 4, where S is
the transpose of S here). Since w > exp(-e^{-1/2}) = 0.545, no sum of log w over a chunk of 64
tokens is below -39, and the chunked form of `delta_scans` is exact up to rounding. The eigenvalues
of a step include negative values, as published. Two parts of the published model are omitted. The
mix of v with the value of the first layer is left out because a layer here has no access to other
layers, and the channel mixing is the feed-forward network of the model.
"""

import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from baselines.delta_rule import initial_matrix_memory, l2_normalize
from baselines.delta_scans import generalised_delta_scan
from baselines.matrix_scans import check_scan_form_and_chunk_size
from transformer.broadcasting import multiply_channels, sum_of_products, sum_over_tokens
from transformer.dense import Dense
from transformer.layer import SequenceLayer, apply_mask
from transformer.normalization import LayerNorm
from transformer.options import require_option_values_at_least

MAX_CHUNK_SIZE = 64


class RWKVState(NamedTuple):
  """State of an RWKV-7 layer."""

  latest: jax.Array  # [B, 1, D], the latest token
  memory: jax.Array  # [B, H, K, K], which maps keys to values


def _token_shift_initializer(key, shape):
  """Initializes the token-shift coefficients mu [6, D], which decrease over the channels.

  The values are those of layer 1 in the paper.
  """
  power = jnp.array((0.2, 0.9, 0.7, 0.7, 0.9, 0.2))  # r, w, k, v, a, g
  return 1 - (jnp.arange(shape[1]) / shape[1])[None, :] ** power[:, None]


def _decay_bias_initializer(key, shape, dtype):
  """Initializes decay biases b_w for time constants of 1100 (first channel) to 9 tokens (last)."""
  return jnp.linspace(-6.5, -1.5, shape[0], dtype=dtype)


@jax.custom_vjp
def mix_with_previous_tokens(x: jax.Array, first: jax.Array, mixing: jax.Array) -> list[jax.Array]:
  """Computes x_t + mu (x_{t-1} - x_t) for several vectors mu.

  Args:
    x: the inputs [B, T, D].
    first: the token before the first one, [B, 1, D].
    mixing: the vectors mu, [n, D].

  Returns:
    n arrays [B, T, D].

  """
  return _mix_forward(x, first, mixing)[0]


def _difference_from_previous_tokens(x, first):
  previous = jnp.concatenate([first, x], 1)[:, : x.shape[1]]
  return jax.lax.optimization_barrier((previous - x).astype(jnp.float32))


def _mix_forward(x, first, mixing):
  difference = _difference_from_previous_tokens(x, first)
  mixed = [(x + difference * mu[None, None]).astype(x.dtype) for mu in mixing]
  return mixed, (x, first, mixing)


def _mix_backward(residuals, gradients):
  x, first, mixing = residuals
  difference = _difference_from_previous_tokens(x, first)
  gradients = [gradient.astype(jnp.float32) for gradient in gradients]
  total = sum(gradients)
  previous = sum(g * mu[None, None] for g, mu in zip(gradients, mixing, strict=True))
  total, previous = jax.lax.optimization_barrier((total, previous))
  # Gradients of `first` and x from the tokens of which they are the previous token.
  as_previous = jnp.concatenate([previous, jnp.zeros(first.shape, previous.dtype)], 1)
  mixing_gradients = [sum_over_tokens(g * difference, mixing.shape[1:]) for g in gradients]
  return (
    (total - previous + as_previous[:, 1:]).astype(x.dtype),
    as_previous[:, :1].astype(first.dtype),
    jnp.stack(mixing_gradients).astype(mixing.dtype),
  )


mix_with_previous_tokens.defvjp(_mix_forward, _mix_backward)


@jax.custom_vjp
def bonus_of_current_token(query, key, value, scale):
  """Computes (q . rho k) v, the output for the current token in addition to that of the memory.

  Args:
    query: q, [B, T, H, K].
    key: k, [B, T, H, K].
    value: v, [B, T, H, K].
    scale: rho, [H, K], a parameter.

  Returns:
    The outputs [B, T, H, K].

  """
  return _bonus_forward(query, key, value, scale)[0]


def _bonus_forward(query, key, value, scale):
  score = sum_of_products(query * scale[None, None], key)
  return score * value, (query, key, value, scale, score)


def _bonus_backward(residuals, gradient):
  query, key, value, scale, score = residuals
  score_gradient = sum_of_products(gradient, value)
  product_gradient = score_gradient * scale[None, None]
  return (
    product_gradient * key, product_gradient * query, score * gradient,
    sum_over_tokens(score_gradient * query * key, scale.shape),
  )


bonus_of_current_token.defvjp(_bonus_forward, _bonus_backward)


class RWKV7(SequenceLayer):
  """The time-mixing layer of RWKV-7."""

  num_heads: int = 4
  rank: int = 32  # of the low-rank maps to decays, rates and gates
  chunk_size: int = 0  # tokens per chunk; 0 chooses by platform

  padding_occupies_positions: ClassVar[bool] = True  # because of the token shift

  def __post_init__(self):
    super().__post_init__()
    require_option_values_at_least(self, 1, 'num_heads', 'rank')
    check_scan_form_and_chunk_size('auto', self.chunk_size)
    if self.chunk_size > MAX_CHUNK_SIZE:
      raise ValueError(
        f'RWKV7 needs chunk_size <= {MAX_CHUNK_SIZE} for exact results, not {self.chunk_size}'
      )

  @property
  def required_width_divisor(self):
    return self.num_heads

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    latest = jnp.zeros((batch_size, 1, width), dtype)
    return RWKVState(latest, initial_matrix_memory(self, batch_size, width))

  def _low_rank_map(self, x, name, activation, bias_init=None):
    """Computes the low-rank map W' f(W x) + b in float32, with W initialized to 0."""
    width = x.shape[-1]
    zeros = nn.initializers.zeros
    x = Dense(self.rank, use_bias=False, kernel_init=zeros, dtype=x.dtype, name=name + '_in')(x)
    bias = {} if bias_init is None else {'bias_init': bias_init}
    out = Dense(width, use_bias=bool(bias), dtype=x.dtype, name=name + '_out', **bias)
    return out(activation(x)).astype(jnp.float32)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    if state is None:
      state = self.initial_state(batch_size, length, width, x.dtype)
    x = apply_mask(x, mask)
    latest = state.latest.astype(x.dtype)
    shift = self.param('shift', _token_shift_initializer, (6, width))
    x_r, x_w, x_k, x_v, x_a, x_g = mix_with_previous_tokens(x, latest, shift)

    def split_heads(z):  # [B, T, D] -> [B, T, H, K]
      shape = (batch_size, length, self.num_heads, width // self.num_heads)
      return z.astype(jnp.float32).reshape(shape)

    def project_heads(z, name):
      return split_heads(Dense(width, use_bias=False, dtype=x.dtype, name=name)(z))

    def channel_scale_parameter(name, initial_value):
      shape = (self.num_heads, width // self.num_heads)
      return self.param(name, nn.initializers.constant(initial_value), shape)

    receptance = project_heads(x_r, 'receptance')
    key, value = project_heads(x_k, 'key'), project_heads(x_v, 'value')
    decay = split_heads(self._low_rank_map(x_w, 'decay', jnp.tanh, _decay_bias_initializer))
    log_decay = -math.exp(-0.5) * jax.nn.sigmoid(decay)
    rate = split_heads(self._low_rank_map(x_a, 'rate', lambda z: z, nn.initializers.zeros))
    rate = jax.nn.sigmoid(rate)
    removal_key = l2_normalize(multiply_channels(key, channel_scale_parameter('removal', 0.85)))
    key *= 1 + multiply_channels(rate - 1, channel_scale_parameter('replacement', 1.0))

    log_decay, rate, key = (apply_mask(z, mask) for z in (log_decay, rate, key))
    y, memory = generalised_delta_scan(
      receptance, key, value, removal_key, rate, log_decay, state.memory, chunk_size=self.chunk_size
    )
    epsilon = 1e-5 * y.shape[-1]  # 64e-5 for heads of width 64, as published
    y = LayerNorm(epsilon, feature_axes=(-2, -1), name='norm')(y)
    y += bonus_of_current_token(receptance, key, value, channel_scale_parameter('bonus', 0.0))
    y *= split_heads(self._low_rank_map(x_g, 'gate', jax.nn.sigmoid))
    y = Dense(width, use_bias=False, dtype=x.dtype, name='output')(
      y.reshape(x.shape).astype(x.dtype)
    )
    latest = jnp.concatenate([latest, x], 1)[:, length:]
    return y, RWKVState(latest.astype(state.latest.dtype), memory)
