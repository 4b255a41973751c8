"""The xLSTM layers sLSTM, with a vector memory, and mLSTM, with a matrix memory.

Both are LSTMs with exponential gates.

  sLSTM    c_t = f c_{t-1} + i z,        n_t = f n_{t-1} + i,      h_t = o c_t / n_t
           i~, f~, z~, o~ = W x + U h_{t-1} + b,  W and U block-diagonal by heads,  z = tanh(z~)
  mLSTM    C_t = f C_{t-1} + i k v^T,    n_t = f n_{t-1} + i k,    h_t = C_t^T q / max(|n_t . q|, 1)
           in each head of width K, k divided by sqrt(K), i~ and f~ from the current token alone
  both     i = exp(i~),  f = sigmoid(f~) or, in the mLSTM, exp(f~),  o = sigmoid(o~)

The source is Beck et al. 2024, "xLSTM: Extended long short-term memory", sections 2.2 and 2.3. The
blocks around the memories are in appendix A. A layer here is the part of a block between the norm
and the residual sum.

The exponentials can overflow, so every sum is stored divided by exp(m_t). The stabilizer is
m_t = max(log f + m_{t-1}, log i), and f exp(m_{t-1} - m_t) and i exp(-m_t), which never exceed 1,
replace f and i. The lower bound 1 has to be divided too and becomes exp(-m_t), as in the authors'
code. Then h_t satisfies the equations above for any m_t, whereas it would depend on m_t with a
bound of 1. Since h_t does not depend on m_t, no gradient flows through m_t. The divided bound can
round to 0. A query of zeros still gives 0 with a finite gradient (`safe_divide`).

The stabilized mLSTM is a linear recurrence of decaying outer products of i k and (v, 1), whose last
column is n_t, and `outer_product_scan` computes it in chunks. The sLSTM mixes its units at every
step, which is its purpose, and runs in the same loop as the LSTM.
"""

import itertools
import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from baselines.activations import log_sigmoid, multiply_by_silu, silu
from baselines.convolution import ShortConvolution
from baselines.matrix_scans import check_scan_form_and_chunk_size, outer_product_scan, safe_divide
from baselines.unroll import (
  RecurrentCell,
  StepDerivatives,
  gate_activations,
  split_gates,
  stack_gates,
  unroll,
)
from transformer.broadcasting import add_to_channels, multiply_channels, multiply_tokens
from transformer.dense import Dense, multiply_by_matrix
from transformer.layer import SequenceLayer, apply_mask
from transformer.normalization import LayerNorm
from transformer.options import check_width, require_one_of, require_option_values_at_least

LOG_ZERO = -1e30  # stands for log 0, but is finite so that differences are finite


def block_diagonal_kernel(blocks: jax.Array) -> jax.Array:
  """Expands the weights of G block-diagonal projections into one dense kernel.

  The weights are [N, K, G, K], for N blocks of width K in each projection, and the kernel is
  [N K, G N K]. The dense product includes the zeros, because a large product is faster than many
  small products.
  """
  size, _, outputs, width = blocks.shape
  expanded = jnp.einsum('NKGF,NM->NKGMF', blocks, jnp.eye(size, dtype=blocks.dtype))
  return expanded.reshape(size * width, outputs * size * width)


FORGET_GATES = {'sigmoid': log_sigmoid, 'exp': lambda x: x}  # log f as a function of f~


class BlockDense(nn.Module):
  """Applies G block-diagonal projections to [..., D] in a single product, giving [..., G, D]."""

  num_blocks: int
  outputs: int = 1

  @nn.compact
  def __call__(self, x):  # [..., D]
    width = x.shape[-1] // self.num_blocks
    init = nn.initializers.lecun_normal(in_axis=1, out_axis=(2, 3), batch_axis=0)
    kernel = self.param('kernel', init, (self.num_blocks, width, self.outputs, width))
    y = multiply_by_matrix(x, block_diagonal_kernel(kernel.astype(x.dtype)))
    return y.reshape(*x.shape[:-1], self.outputs, x.shape[-1])


class JointDense(nn.Module):
  """Applies one dense layer to several inputs [..., D_i] side by side, giving [..., F].

  The inputs are multiplied by their rows of the kernel separately, which saves a concatenated copy.
  The kernel is initialized to 0.
  """

  features: int
  bias_init: Callable

  @nn.compact
  def __call__(self, *inputs):  # [..., D_i]
    ends = list(itertools.accumulate(x.shape[-1] for x in inputs))
    kernel = self.param('kernel', nn.initializers.zeros, (ends[-1], self.features))
    bias = self.param('bias', self.bias_init, (self.features,))
    rows = jnp.split(kernel.astype(inputs[0].dtype), ends[:-1])
    y = sum(multiply_by_matrix(x, part) for x, part in zip(inputs, rows, strict=True))
    return add_to_channels(y, bias.astype(y.dtype))


class HeadNorm(nn.Module):
  """Layer norm of each head, which maps [..., H, K] to [..., H K] in the requested dtype."""

  @nn.compact
  def __call__(self, x, dtype):  # [..., H, K]
    norm = LayerNorm(use_bias=False, feature_axes=(-2, -1), name='norm')
    return norm(x).reshape(*x.shape[:-2], math.prod(x.shape[-2:])).astype(dtype)


def forget_gate_biases(size: int) -> jax.Array:
  """Evenly spaced forget gate biases from 3 to 6, for time constants of 20 to 400 tokens."""
  return jnp.linspace(3.0, 6.0, size)


class SLSTMCell(RecurrentCell):
  """The stabilized sLSTM recurrence, with the gates i, f, z, o and the state h, c, n, m."""

  carried: ClassVar[tuple[int, ...]] = (1, 2)  # c and n

  @staticmethod
  def step(input_projection, recurrent_projection, state):
    _, c, n, m = state
    gates = input_projection + recurrent_projection
    log_i, log_decayed = gates[..., 0, :], log_sigmoid(gates[..., 1, :]) + m
    _, f, z, o = split_gates(gate_activations(gates, ('tanh', 'sigmoid', 'tanh', 'sigmoid')))
    after = jnp.maximum(log_decayed, log_i)
    gain, decay = jnp.exp(log_i - after), jnp.exp(log_decayed - after)
    c_after, n_after = decay * c + gain * z, decay * n + gain
    h_by_c, ratio, decay_by_f = o / n_after, c_after / n_after, decay * (1 - f)
    # The derivatives of c for the gates i, f and z, and of h for the gate o.
    derivatives = stack_gates(gain * z, c * decay_by_f, gain * (1 - z**2), ratio * o * (1 - o))
    n_by_gates = stack_gates(gain, n * decay_by_f, *(jnp.zeros_like(n),) * 2)
    others = n_by_gates, h_by_c, ratio
    return (o * ratio, c_after, n_after, after), StepDerivatives(derivatives, decay, others)

  @staticmethod
  def carried_gradient(others, retained_gradient, hidden_gradient):
    (c, n), (_, h_by_c, ratio) = retained_gradient, others
    return c + hidden_gradient * h_by_c, n - hidden_gradient * h_by_c * ratio

  @staticmethod
  def preactivation_gradient(derivatives, carried_gradient, hidden_gradient):
    (c, n), h, (n_by_gates, *_) = carried_gradient, hidden_gradient, derivatives.others
    return derivatives.preactivations * stack_gates(c, c, c, h) + n_by_gates * n[..., None, :]


class SLSTM(SequenceLayer):
  """The sLSTM, with a vector memory and recurrent connections between the units of a head."""

  num_heads: int = 4
  kernel_size: int = 4  # of the convolution before the gates i and f; 0 means no convolution

  def __post_init__(self):
    super().__post_init__()
    require_option_values_at_least(self, 1, 'num_heads')
    require_option_values_at_least(self, 0, 'kernel_size')

  @property
  def padding_occupies_positions(self):
    return self.kernel_size > 1

  @property
  def required_width_divisor(self):
    return self.num_heads

  def _short_convolution(self, **options):
    return ShortConvolution(self.kernel_size, **options) if self.kernel_size else None

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Returns the short convolution's state, if present, and the cell state h, c, n, m [B, D]."""
    check_width(self, width)
    convolution, zeros = self._short_convolution(parent=None), jnp.zeros((batch_size, width))
    past = () if convolution is None else convolution.initial_state(
      batch_size, capacity, width, dtype
    )
    return past, (zeros, zeros, zeros, jnp.full_like(zeros, LOG_ZERO))

  def _bias_initializer(self, key, shape):  # [G, D]
    forget = forget_gate_biases(shape[1] // self.num_heads)
    return jnp.zeros(shape).at[1].set(jnp.tile(forget, self.num_heads))

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    before = None if state is None else state[0]
    if state is None:
      state = self.initial_state(batch_size, length, width, x.dtype)
    (past, memory), heads = state, (self.num_heads, width // self.num_heads)
    x = apply_mask(x, mask)
    convolution, local = self._short_convolution(name='convolution'), x
    if convolution is not None:
      local, past = convolution(x, before, mask=mask, train=train)
      local = silu(local)
    gates = [
      BlockDense(self.num_heads, outputs=2, name=name)(features.swapaxes(0, 1)).astype(jnp.float32)
      for name, features in (('i_f', local), ('z_o', x))
    ]
    bias = self.param('bias', self._bias_initializer, (4, width))
    input_projection = add_to_channels(jnp.concatenate(gates, -2), bias)  # [T, B, 4, D]
    kernel = self.param('recurrent_kernel', nn.initializers.zeros, (*heads, 4, heads[1]))
    kernel = block_diagonal_kernel(kernel.astype(x.dtype))
    valid = None if mask is None else mask.T[..., None]
    hidden, memory = unroll(SLSTMCell, kernel, input_projection, memory, valid)
    y = hidden.swapaxes(0, 1).reshape(batch_size, length, *heads)
    return HeadNorm(name='norm')(y, x.dtype), (past, memory)


def stabilize_gates(log_i, log_f, initial_stabilizer):
  """Computes the stabilizers m and the input and forget gates rescaled by them, for all tokens.

  Args:
    log_i: log i [B, T, H], minus infinity where the input gate is closed.
    log_f: log f [B, T, H].
    initial_stabilizer: the stabilizer before the first token [B, H].

  Returns:
    m, the stabilized i and the logarithm of the stabilized f, each [B, T, H]. No gradient flows
    through m.

  """
  # The stabilizer m_t minus the cumulative sum of log f is a running maximum over the tokens.
  # Stabilizers cancel in the outputs, so that their rounding errors do not matter.
  total = jnp.cumsum(log_f, 1)
  m = total + jnp.maximum(jax.lax.cummax(log_i - total, 1), initial_stabilizer[:, None])
  m = jax.lax.stop_gradient(m)
  before = jnp.concatenate([jax.lax.stop_gradient(initial_stabilizer)[:, None], m[:, :-1]], 1)
  return m, jnp.exp(log_i - m), log_f + before - m


def mlstm_scan(query, key, value, log_i, log_f, state, form='auto', chunk_size=0):
  """Computes the outputs and the final matrix memory of the stabilized mLSTM recurrence.

  Args:
    query: q [B, T, H, K].
    key: k [B, T, H, K], divided by sqrt(K).
    value: v [B, T, H, K].
    log_i: log i [B, T, H], minus infinity where the input gate is closed.
    log_f: log f [B, T, H].
    state: the pair of (C, n) [B, H, K, K + 1] and m [B, H].
    form: the form of `outer_product_scan`.
    chunk_size: C, a power of two. 0 chooses by platform.

  Returns:
    h [B, T, H, K] in float32, and the state after the last token.

  Raises:
    ValueError: if the form is unknown or the chunk size is not a power of two.

  Examples:
    >>> import jax.numpy as jnp
    >>> from baselines.xlstm import mlstm_scan
    >>> x = jnp.ones((1, 4, 2, 3))  # query, key and value [B, T, H, K]
    >>> gates = jnp.zeros((1, 4, 2))  # i = f = 1
    >>> empty = jnp.zeros((1, 2, 3, 4)), jnp.zeros((1, 2))
    >>> h, (memory, m) = mlstm_scan(x, x / 3**0.5, x, gates, gates, empty)
    >>> h.shape, memory.shape, m.shape
    ((1, 4, 2, 3), (1, 2, 3, 4), (1, 2))
    >>> [round(float(output), 3) for output in h[0, :, 0, 0]]
    [1.0, 1.0, 1.0, 1.0]

  """
  memory, start = state
  m, input_gate, log_decay = stabilize_gates(log_i, log_f, start)
  key = multiply_tokens(key.astype(jnp.float32), input_gate[..., None])
  value = jnp.concatenate([value, jnp.ones_like(value[..., :1])], -1)
  y, memory = outer_product_scan(
    query, key, value, log_decay, memory, form=form, chunk_size=chunk_size
  )
  denominator = jnp.maximum(jnp.abs(y[..., -1:]), jnp.exp(-m)[..., None])
  last = jnp.concatenate([start[:, None], m], 1)[:, -1]
  return safe_divide(y[..., :-1], denominator), (memory, last)


class MLSTM(SequenceLayer):
  """The mLSTM, a matrix memory between an up- and a down-projection, with a silu output gate."""

  num_heads: int = 4
  expansion: int = 2  # the inner width relative to the width of the model
  kernel_size: int = 4  # of the convolution before the projections to queries and keys
  block_size: int = 4  # of the block-diagonal projections to queries, keys and values
  forget_gate: str = 'sigmoid'  # or 'exp'
  chunk_size: int = 0  # tokens per chunk; 0 chooses by platform

  padding_occupies_positions: ClassVar[bool] = True  # because of the convolution

  def __post_init__(self):
    super().__post_init__()
    require_option_values_at_least(self, 1, 'num_heads', 'expansion', 'kernel_size', 'block_size')
    require_one_of(self, 'forget_gate', FORGET_GATES)
    check_scan_form_and_chunk_size('auto', self.chunk_size)

  @property
  def required_width_divisor(self):
    """The number that must divide the model width, so that heads and blocks have equal sizes."""
    shares = math.lcm(self.num_heads, self.block_size)
    return shares // math.gcd(shares, self.expansion)

  def _short_convolution(self, **options):
    return ShortConvolution(self.kernel_size, **options)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Returns the initial state of the convolution and a matrix memory of zeros.

    The memory is a pair of an array [B, H, K, K + 1], which holds C and n, and the stabilizer m
    [B, H].
    """
    check_width(self, width)
    inner, heads = self.expansion * width, self.num_heads
    past = self._short_convolution(parent=None).initial_state(batch_size, capacity, inner, dtype)
    memory = jnp.zeros((batch_size, heads, inner // heads, inner // heads + 1))
    return past, (memory, jnp.zeros((batch_size, heads)))

  def _dense(self, features, name, dtype):
    return Dense(features, use_bias=False, dtype=dtype, name=name)

  def _log_input_and_forget_gates(self, *features):
    """Computes log i and log f [B, T, H] by a dense layer whose kernel is initialized to 0."""
    def gate_bias_initializer(key, shape, dtype=jnp.float32):
      i = 0.1 * jax.random.normal(key, (self.num_heads,), dtype)
      return jnp.concatenate([i, forget_gate_biases(self.num_heads)])

    gates = JointDense(2 * self.num_heads, gate_bias_initializer, name='gates')(*features)
    i, f = jnp.split(gates.astype(jnp.float32), 2, -1)
    return i, FORGET_GATES[self.forget_gate](f)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    past = None if state is None else state[0]
    if state is None:
      state = self.initial_state(batch_size, length, width, x.dtype)
    (_, memory), inner = state, self.expansion * width
    up = self._dense(2 * inner, 'up', x.dtype)(apply_mask(x, mask))
    x, branch = jnp.split(up, 2, -1)
    local, past = self._short_convolution(name='convolution')(x, past, mask=mask, train=train)
    local = silu(local)

    blocks = inner // self.block_size
    query_key = BlockDense(blocks, outputs=2, name='query_key')(local)
    query_key = query_key.reshape(batch_size, length, 2 * inner)
    value = BlockDense(blocks, name='value')(x)[..., 0, :]
    log_i, log_f = self._log_input_and_forget_gates(query_key, value)
    query, key = jnp.split(query_key, 2, -1)
    if mask is not None:
      log_i = jnp.where(mask[..., None], log_i, -jnp.inf)
    heads = (batch_size, length, self.num_heads, inner // self.num_heads)
    query, key, value = (x.reshape(heads) for x in (query, key, value))
    h, memory = mlstm_scan(
      query, key * key.shape[-1] ** -0.5, value, log_i, apply_mask(log_f, mask), memory,
      chunk_size=self.chunk_size,
    )
    skip = self.param('skip', nn.initializers.ones, (inner,)).astype(x.dtype)
    y = HeadNorm(name='norm')(h, x.dtype) + multiply_channels(local, skip)
    y = multiply_by_silu(y, branch)
    return self._dense(width, 'down', x.dtype)(y), (past, memory)
