"""DeltaNet and Gated DeltaNet, which replace the value that a matrix memory stores for a key.

  q, k = l2_normalize(silu(conv(W x))),  v = silu(conv(W x)),  beta = sigmoid(W x)
  S_t = a_t (I - beta_t k_t k_t^T) S_{t-1} + beta_t k_t v_t^T          (computed by `delta_scans`)
  DeltaNet         a_t = 1,  y = W norm(S_t^T q_t)     (Schlag et al. 2021; Yang et al. 2024)
  Gated DeltaNet   a_t = exp(-exp(A) softplus(W x + b)),  y = W (norm(S_t^T q_t) silu(W x))
                                                       (Yang, Kautz and Hatamizadeh 2025)

There are H heads, the convolutions are per channel, and norm is the RMS norm of a head. The
eigenvalues of a step are a_t and a_t (1 - beta_t). With beta = 2 sigmoid(W x) the latter lie in
[-1, 1]. A step can then reflect the memory, so the layer can count modulo 2 and track states
(Grazzi et al. 2025).
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from baselines.activations import multiply_by_silu, silu, softplus
from baselines.convolution import ShortConvolution
from baselines.delta_scans import delta_scan
from baselines.discretization import time_step_bias_initializer
from baselines.mamba2 import log_decay_rate_initializer
from baselines.matrix_scans import check_scan_form_and_chunk_size
from baselines.scans import EIGENVALUES
from transformer.broadcasting import multiply_channels, sum_of_products
from transformer.dense import Dense, DenseGeneral
from transformer.layer import SequenceLayer, apply_mask
from transformer.normalization import RMSNorm
from transformer.options import check_width, require_one_of, require_option_values_at_least


@jax.custom_vjp
def l2_normalize(x: jax.Array) -> jax.Array:
  """Scales the last axis to L2 norm 1. A vector of zeros stays zero and has a finite gradient."""
  return _l2_normalize_forward(x)[0]


def _l2_normalize_forward(x):
  inverse = 1 / jnp.sqrt(sum_of_products(x, x) + 1e-6)
  y = x * inverse
  return y, (y, inverse)


def _l2_normalize_backward(residuals, gradient):
  y, inverse = residuals
  return (inverse * (gradient - y * sum_of_products(gradient, y)),)


l2_normalize.defvjp(_l2_normalize_forward, _l2_normalize_backward)


def initial_matrix_memory(layer: SequenceLayer, batch_size: int, width: int) -> jax.Array:
  """Returns zeros as the initial matrix memory of a layer with equal key and value widths.

  Args:
    layer: a layer with `num_heads` heads.
    batch_size: B, the number of sequences.
    width: D, the width of the model.

  Returns:
    Zeros [B, H, K, K] for heads of width K = D / H.

  Raises:
    ValueError: if the width is not a multiple of the number of heads.

  """
  check_width(layer, width)
  size = width // layer.num_heads
  return jnp.zeros((batch_size, layer.num_heads, size, size))


class DeltaState(NamedTuple):
  """State of a DeltaNet or Gated DeltaNet layer."""

  latest: jax.Array  # [B, k - 1, 3 D], the latest projections, inputs of the convolution
  memory: jax.Array  # [B, H, K, K], which maps keys to values


class DeltaNet(SequenceLayer):
  """DeltaNet, the delta rule with short convolutions of queries, keys and values."""

  num_heads: int = 4
  kernel_size: int = 4
  eigenvalues: str = '[0,1]'
  chunk_size: int = 0  # tokens per chunk; 0 chooses by platform

  padding_occupies_positions: ClassVar[bool] = True  # because of the convolution

  def __post_init__(self):
    super().__post_init__()
    require_option_values_at_least(self, 1, 'num_heads', 'kernel_size')
    require_one_of(self, 'eigenvalues', EIGENVALUES)
    check_scan_form_and_chunk_size('auto', self.chunk_size)

  @property
  def required_width_divisor(self):
    return self.num_heads

  def _short_convolution(self):
    return ShortConvolution(self.kernel_size, use_bias=False, parent=None)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    latest = self._short_convolution().initial_state(batch_size, capacity, 3 * width, dtype)
    return DeltaState(latest, initial_matrix_memory(self, batch_size, width))

  def log_decay(self, x):  # [B, T, D] -> [B, T, H]
    """The logarithm of the decay a_t, which is None in a DeltaNet because a_t = 1."""
    return None

  def apply_output_gate(self, y, x):  # [B, T, H, K], [B, T, D]
    """Returns the normalized outputs y unchanged, because a DeltaNet has no output gate."""
    return y

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    past = None if state is None else state.latest
    if state is None:
      state = self.initial_state(batch_size, length, width, x.dtype)
    x = apply_mask(x, mask)
    projected = Dense(3 * width, use_bias=False, dtype=x.dtype, name='projection')(x)
    convolution = self._short_convolution().copy(name='convolution')
    projected, latest = convolution(projected, past, mask=mask)
    projected = silu(projected.astype(jnp.float32))
    projected = projected.reshape(batch_size, length, 3, self.num_heads, width // self.num_heads)
    query, key, value = (x[:, :, 0] for x in jnp.split(projected, 3, 2))

    beta = Dense(self.num_heads, use_bias=False, dtype=x.dtype, name='beta')(x)
    max_beta = 2 if self.eigenvalues == '[-1,1]' else 1
    beta = max_beta * jax.nn.sigmoid(beta.astype(jnp.float32))
    beta, log_decay = apply_mask(beta, mask), self.log_decay(x)
    if log_decay is not None:
      log_decay = apply_mask(log_decay, mask)
    y, memory = delta_scan(
      l2_normalize(query), l2_normalize(key), value, beta, log_decay, state.memory,
      chunk_size=self.chunk_size,
    )
    y = self.apply_output_gate(RMSNorm(dtype=x.dtype, name='norm')(y), x)
    y = DenseGeneral(width, (-2, -1), use_bias=False, dtype=x.dtype, name='output')(y)
    return y, DeltaState(latest, memory)


class GatedDeltaNet(DeltaNet):
  """Gated DeltaNet, the delta rule with the memory decay of Mamba-2 and an output gate."""

  def log_decay(self, x):
    """The logarithm of the decay a_t, computed as -exp(A) softplus(W x + b)."""
    project = Dense(
      self.num_heads, bias_init=time_step_bias_initializer, dtype=x.dtype, name='step'
    )
    step = project(x)
    log_rate = self.param('log_rate', log_decay_rate_initializer, (self.num_heads,))
    return multiply_channels(softplus(step.astype(jnp.float32)), -jnp.exp(log_rate))

  def apply_output_gate(self, y, x):
    """Multiplies the normalized outputs y by silu(W x)."""
    heads = y.shape[-2:]
    gate = DenseGeneral(heads, use_bias=False, dtype=x.dtype, name='gate')(x)
    return multiply_by_silu(y, gate)
