"""xLSTM: the LSTM with exponential gates, its memory a vector (sLSTM) or a matrix (mLSTM).

  sLSTM    c_t = f c_{t-1} + i z,        n_t = f n_{t-1} + i,      h_t = o c_t / n_t
           i~, f~, z~, o~ = W x + U h_{t-1} + b,  W and U block-diagonal by heads,  z = tanh(z~)
  mLSTM    C_t = f C_{t-1} + i k v^T,    n_t = f n_{t-1} + i k,    h_t = C_t^T q / max(|n_t . q|, 1)
           in each head of width K, k divided by sqrt(K), i~ and f~ from the present token alone
  both     i = exp(i~),  f = sigmoid(f~) or, mLSTM, exp(f~),  o = sigmoid(o~)

(Beck et al. 2024, "xLSTM: Extended long short-term memory", sections 2.2 and 2.3; the blocks around
the memories, of which a layer here is what is between norm and residual, are in appendix A.)

Exponentials overflow, so that every sum is kept divided by exp(m_t), the stabiliser being
m_t = max(log f + m_{t-1}, log i), and f exp(m_{t-1} - m_t) and i exp(-m_t), never above 1, take
the place of f and i. The lower bound 1 has to be divided, too: it is exp(-m_t), as in the authors'
code, so that h_t is that of the equations above, whatever m_t is. A bound that stays 1 would make
h_t depend on it. Since h_t does not, no gradient flows through m_t. The divided bound may round to
0: a query of zeros reads 0 with a finite gradient all the same (`normalised`).

The stabilised mLSTM is a linear recurrence of decaying outer products of i k and (v, 1), the
last column being n_t: `outer_product_scan` reads all times in chunks. The sLSTM mixes its units at
every step, which is what it is for, and runs in the LSTM's loop.
"""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from baselines.convolution import ShortConvolution
from baselines.linear_attention import log_sigmoid
from baselines.matrix_scans import check_form, normalised, outer_product_scan
from baselines.unroll import RecurrentCell, gate_activations, split, unroll
from transformer.layer import SequenceLayer, masked
from transformer.normalization import LayerNorm
from transformer.options import at_least, one_of, suits

NOTHING = -1e30  # the logarithm of a sum before its first term, finite so that differences are


def block_diagonal(blocks: jax.Array) -> jax.Array:
  """A matrix [N K, G N K] out of blocks [N, K, G, K]: G block-diagonal matrices side by side.

  Its zeros are multiplied, too: one large product is faster than many small ones.
  """
  size, _, outputs, width = blocks.shape
  spread = jnp.einsum('NKGF,NM->NKGMF', blocks, jnp.eye(size, dtype=blocks.dtype))
  return spread.reshape(size * width, outputs * size * width)


FORGET_GATES = {'sigmoid': log_sigmoid, 'exp': lambda x: x}  # log f of f~


class BlockDense(nn.Module):
  """G block-diagonal projections at once: [..., D] to [..., G, D]."""

  num_blocks: int
  outputs: int = 1

  @nn.compact
  def __call__(self, x):  # [..., D]
    width = x.shape[-1] // self.num_blocks
    init = nn.initializers.lecun_normal(in_axis=1, out_axis=(2, 3), batch_axis=0)
    kernel = self.param('kernel', init, (self.num_blocks, width, self.outputs, width))
    y = x @ block_diagonal(kernel.astype(x.dtype))
    return y.reshape(*x.shape[:-1], self.outputs, x.shape[-1])


class HeadNorm(nn.Module):
  """Each head at mean 0 and variance 1, then scaled: [..., H, K] to [..., H K] in a dtype."""

  @nn.compact
  def __call__(self, x, dtype):  # [..., H, K]
    norm = LayerNorm(use_bias=False, feature_axes=(-2, -1), name='norm')
    return norm(x).reshape(*x.shape[:-2], math.prod(x.shape[-2:])).astype(dtype)


def open_forget_gates(size: int) -> jax.Array:
  """Biases from 3 to 6, evenly: memories of 20 to 400 tokens."""
  return jnp.linspace(3.0, 6.0, size)


class SLSTMCell(RecurrentCell):
  """The stabilised equations; the gates are in the order i, f, z, o, the state is h, c, n, m."""

  @staticmethod
  def step(input_projection, product, state):
    _, c, n, m = state
    gates = input_projection + product
    log_i, remembered = gates[..., 0, :], log_sigmoid(gates[..., 1, :]) + m
    f, z, o = split(gate_activations(gates[..., 1:, :], (0.5, 1, 0.5)))
    m = jnp.maximum(remembered, log_i)
    written, kept = jnp.exp(log_i - m), jnp.exp(remembered - m)
    c, n = kept * c + written * z, kept * n + written
    return (o * c / n, c, n, m), (written, kept, f, z, o)

  @staticmethod
  def slopes(gates, before, after):
    (written, kept, f, z, o), (_, c, n, _) = gates, before
    norm, read, forgot = 1 / after[2], after[1] / after[2], kept * (1 - f)
    by_c = jnp.stack((written * z, c * forgot, written * (1 - z**2)), -2)  # c_t by i~, f~, z~
    by_n = jnp.stack((written, n * forgot, jnp.zeros_like(z)), -2)
    opened = read * o * (1 - o)  # h_t by o~
    return by_c, by_n, opened[..., None, :], o * norm, read, kept

  @staticmethod
  def pull(slopes, gradient):
    (by_c, by_n, opened, norm, read, kept), (h, c, n, m) = slopes, gradient
    c, n = c + h * norm, n - h * norm * read
    written = by_c * c[..., None, :] + by_n * n[..., None, :]
    gates = jnp.concatenate((written, opened * h[..., None, :]), -2)
    return gates, (0, c * kept, n * kept, jnp.zeros_like(m))


class SLSTM(SequenceLayer):
  """A vector memory, its units mixed within heads at every step."""

  num_heads: int = 4
  kernel_size: int = 4  # of the convolution that the gates i and f see; 0: none

  def __post_init__(self):
    super().__post_init__()
    at_least(self, 1, 'num_heads')
    at_least(self, 0, 'kernel_size')

  @property
  def padding_takes_time(self):
    """In the convolution."""
    return self.kernel_size > 1

  @property
  def width_multiple(self):
    """Heads of equal width."""
    return self.num_heads

  def _convolution(self, **where):
    return ShortConvolution(self.kernel_size, **where) if self.kernel_size else None

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """The convolution's, if there is one, and h, c, n, m [B, D] of sums without a term."""
    suits(self, width)
    convolution, zeros = self._convolution(parent=None), jnp.zeros((batch_size, width))
    past = () if convolution is None else convolution.initial_state(
      batch_size, capacity, width, dtype
    )
    return past, (zeros, zeros, zeros, jnp.full_like(zeros, NOTHING))

  def _bias(self, key, shape):  # [G, D]
    forget = open_forget_gates(shape[1] // self.num_heads)
    return jnp.zeros(shape).at[1].set(jnp.tile(forget, self.num_heads))

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    if state is None:
      state = self.initial_state(batch_size, length, width, x.dtype)
    (past, memory), heads = state, (self.num_heads, width // self.num_heads)
    x = masked(x, mask)
    convolution, local = self._convolution(name='convolution'), x
    if convolution is not None:
      local, past = convolution(x, past, mask=mask, train=train)
      local = jax.nn.silu(local)
    gates = [
      BlockDense(self.num_heads, outputs=2, name=name)(read.swapaxes(0, 1)).astype(jnp.float32)
      for name, read in (('i_f', local), ('z_o', x))
    ]
    bias = self.param('bias', self._bias, (4, width))
    input_projection = jnp.concatenate(gates, -2) + bias[None, None]  # [T, B, 4, D]
    kernel = self.param('recurrent_kernel', nn.initializers.zeros, (*heads, 4, heads[1]))
    kernel = block_diagonal(kernel.astype(x.dtype))
    valid = None if mask is None else mask.T[..., None]
    hidden, memory = unroll(SLSTMCell, kernel, input_projection, memory, valid)
    y = hidden.swapaxes(0, 1).reshape(batch_size, length, *heads)
    return HeadNorm(name='norm')(y, x.dtype), (past, memory)


def stabilised(log_i, log_f, start):
  """Stabilisers and the gates divided by them.

  Args:
    log_i: [B, T, H]; minus infinity where nothing is to be written.
    log_f: [B, T, H].
    start: [B, H] the stabiliser before the first token.

  Returns:
    m, i' and log f', all [B, T, H]; no gradient flows through m.

  """
  # The running maximum of m_t - (log f_1 + ... + log f_t); rounding of the long sums only
  # moves m_t, on which nothing depends.
  total = jnp.cumsum(log_f, 1)
  m = total + jnp.maximum(jax.lax.cummax(log_i - total, 1), start[:, None])
  m = jax.lax.stop_gradient(m)
  before = jnp.concatenate([jax.lax.stop_gradient(start)[:, None], m[:, :-1]], 1)
  return m, jnp.exp(log_i - m), log_f + before - m


def matrix_memory(query, key, value, log_i, log_f, state, form='auto', chunk_size=0):
  """The mLSTM's equations at all times.

  Args:
    query: q [B, T, H, K].
    key: k [B, T, H, K], divided by sqrt(K).
    value: v [B, T, H, K].
    log_i: i~ [B, T, H]; minus infinity where nothing is to be written.
    log_f: log f [B, T, H].
    state: (C, n) [B, H, K, K + 1] and m [B, H].
    form: of `outer_product_scan`, as is chunk_size.
    chunk_size: C; 0 picks by platform.

  Returns:
    h [B, T, H, K] in float32, and the state after the last token.

  """
  memory, start = state
  m, written, log_decay = stabilised(log_i, log_f, start)
  key = key.astype(jnp.float32) * written[..., None]
  value = jnp.concatenate([value, jnp.ones_like(value[..., :1])], -1)
  y, memory = outer_product_scan(
    query, key, value, log_decay, memory, form=form, chunk_size=chunk_size
  )
  divisor = jnp.maximum(jnp.abs(y[..., -1:]), jnp.exp(-m)[..., None])
  last = jnp.concatenate([start[:, None], m], 1)[:, -1]
  return normalised(y[..., :-1], divisor), (memory, last)


class MLSTM(SequenceLayer):
  """A matrix memory between an up- and a down-projection; a silu branch is its output gate."""

  num_heads: int = 4
  expansion: int = 2  # the width inside, in widths of the model
  kernel_size: int = 4  # of the convolution that queries and keys see
  block_size: int = 4  # of the block-diagonal projections to queries, keys and values
  forget_gate: str = 'sigmoid'  # or 'exp'
  chunk_size: int = 0  # tokens that are read at once; 0: by platform

  padding_takes_time: ClassVar[bool] = True  # in the convolution

  def __post_init__(self):
    super().__post_init__()
    at_least(self, 1, 'num_heads', 'expansion', 'kernel_size', 'block_size')
    one_of(self, 'forget_gate', FORGET_GATES)
    check_form('auto', self.chunk_size)

  @property
  def width_multiple(self):
    """Heads and blocks share out the width inside."""
    shares = math.lcm(self.num_heads, self.block_size)
    return shares // math.gcd(shares, self.expansion)

  def _convolution(self, **where):
    return ShortConvolution(self.kernel_size, **where)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """The convolution's, an empty matrix (C, n) [B, H, K, K + 1] and its stabiliser [B, H]."""
    suits(self, width)
    inner, heads = self.expansion * width, self.num_heads
    past = self._convolution(parent=None).initial_state(batch_size, capacity, inner, dtype)
    memory = jnp.zeros((batch_size, heads, inner // heads, inner // heads + 1))
    return past, (memory, jnp.zeros((batch_size, heads)))

  def _gates(self, *read):
    """i~ and log f [B, T, H], at the start the same for all inputs."""
    def bias(key, shape, dtype=jnp.float32):
      i = 0.1 * jax.random.normal(key, (self.num_heads,), dtype)
      return jnp.concatenate([i, open_forget_gates(self.num_heads)])

    gates = nn.Dense(
      2 * self.num_heads, dtype=read[0].dtype, name='gates',
      kernel_init=nn.initializers.zeros, bias_init=bias,
    )(jnp.concatenate(read, -1))
    i, f = jnp.split(gates.astype(jnp.float32), 2, -1)
    return i, FORGET_GATES[self.forget_gate](f)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    if state is None:
      state = self.initial_state(batch_size, length, width, x.dtype)
    (past, memory), inner = state, self.expansion * width
    up = nn.Dense(2 * inner, use_bias=False, dtype=x.dtype, name='up')(masked(x, mask))
    x, branch = jnp.split(up, 2, -1)
    local, past = self._convolution(name='convolution')(x, past, mask=mask, train=train)
    local = jax.nn.silu(local)

    blocks = inner // self.block_size
    query_key = BlockDense(blocks, outputs=2, name='query_key')(local)
    value = BlockDense(blocks, name='value')(x)[..., 0, :]
    query, key = query_key[..., 0, :], query_key[..., 1, :]
    log_i, log_f = self._gates(query, key, value)
    if mask is not None:
      log_i = jnp.where(mask[..., None], log_i, -jnp.inf)
    heads = (batch_size, length, self.num_heads, inner // self.num_heads)
    query, key, value = (each.reshape(heads) for each in (query, key, value))
    h, memory = matrix_memory(
      query, key * key.shape[-1] ** -0.5, value, log_i, masked(log_f, mask), memory,
      chunk_size=self.chunk_size,
    )
    skip = self.param('skip', nn.initializers.ones, (inner,)).astype(x.dtype)
    y = (HeadNorm(name='norm')(h, x.dtype) + skip[None, None] * local) * jax.nn.silu(branch)
    return nn.Dense(width, use_bias=False, dtype=x.dtype, name='down')(y), (past, memory)
