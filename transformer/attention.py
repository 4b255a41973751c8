"""Scaled dot-product attention: every token looks at every earlier one, in one step.

  Attention(Q, K, V) = softmax(Q K^T / sqrt(K)) V      (Vaswani et al. 2017, equation 1)

in H heads, each with its own projections. Its memory is what it has read: the keys and values of
all earlier tokens, which is why it forgets nothing and why its state grows with the length. What
has been done about that, and about large scores:

  multi-query, grouped-query   heads share keys and values   (Shazeer 2019; Ainslie et al. 2023)
  window                       only the w latest tokens      (Beltagy et al. 2020)
  soft cap                     scores c tanh(score / c)      (Gemma Team 2024)
  query-key norm               both at an RMS of 1, scaled   (Dehghani et al. 2023)

An encoder's attention is the same without the order: `causal=False` looks both ways. Where a head
looks can be seen: `apply(..., mutable='intermediates')` returns the weights of every layer.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer import platform
from transformer.banded_attention import banded
from transformer.blocked_attention import blocked
from transformer.dot_product import AttentionMask, facing, naive, strips, weights
from transformer.fused_attention import fused, unsupported_reason
from transformer.layer import SequenceLayer, masked
from transformer.normalization import RMSNorm
from transformer.options import at_least, one_of, suits
from transformer.positions import Positions, Relative, Rotary

FORMS = ('auto', 'naive', 'blocked', 'fused', 'banded')
BLOCKED_FROM = {'cpu': 64}  # the tokens in sight from which blocks are faster than all at once
BANDED_FROM = 64  # the length T from which bands are worth being cut, if it is ...
WINDOWS = 4  # ... so many windows
NOTHING = Relative()


def attend(
  query, key, value, attention_mask: AttentionMask, relative=NOTHING, soft_cap=0.0, form='auto'
):
  """Softmax attention in the form that is fastest here, or in the one that is named.

  Args:
    query: [B, H, R, T, K], R queries for each of H keys.
    key: [B, H, K, S].
    value: [B, H, V, S].
    attention_mask: where each query may look; one that may look nowhere answers 0.
    relative: what is added by distance.
    soft_cap: c; 0: none.
    form: 'naive' (all scores at once), 'blocked' (memory linear in the length), 'banded' (all
      scores within a window at once), 'fused' (cuDNN's or Pallas' kernel), each a ValueError where
      it cannot be, or 'auto'.

  Returns:
    [B, H, R, T, V].

  """
  if 0 in (query.shape[3], key.shape[3]):  # no query, or nothing to look at
    return jnp.zeros((*query.shape[:4], value.shape[2]), value.dtype)
  if form in ('auto', 'fused'):
    reason = unsupported_reason(query, key, value, attention_mask, relative, soft_cap)
    if reason is None:
      return fused(query, key, value, attention_mask)
    if form == 'fused':
      raise ValueError(f'no fused attention here: {reason}')
    form = fastest(query.shape[3], attention_mask.window)
  compute = {'naive': naive, 'blocked': blocked, 'banded': banded}[form]
  return compute(query, key, value, attention_mask, relative, soft_cap)


def fastest(length: int, window: int) -> str:
  """The form for so many queries where there is no kernel: in blocks if too much is in sight."""
  many = BLOCKED_FROM.get(platform.current(), 1024)
  if 0 < window <= many and length >= max(BANDED_FROM, WINDOWS * window):
    return 'banded'
  return 'naive' if length < many else 'blocked'


def sow_weights(
  module: nn.Module, query, key, attention_mask: AttentionMask, relative=NOTHING, soft_cap=0.0
):
  """Leaves the weights [B, heads, T, S] where `intermediates` are asked for; else does nothing."""
  if module.is_mutable_collection('intermediates') and not module.is_initializing():
    length, size = query.shape[3], key.shape[3]
    near = facing(strips(relative, length, size), attention_mask.offset, length, size)
    weight = weights(query, key, attention_mask, near, soft_cap)
    module.sow('intermediates', 'weights', weight.reshape(len(weight), -1, length, size))


class KVCache(NamedTuple):
  """Attention's memory of S tokens: all that there is room for, or the latest."""

  key: jax.Array  # [B, H, K, S], for H heads of keys: S last makes the products fast
  value: jax.Array  # [B, H, V, S]
  valid: jax.Array  # [B, S] whether a token was read here and was no padding
  index: jax.Array  # [] how many tokens were read

  @property
  def size(self) -> int:
    """S."""
    return self.valid.shape[-1]

  def append(self, new: 'KVCache') -> 'KVCache':
    """What is new written behind what was read; the size stays."""
    def put(old, new):
      start = (0,) * (old.ndim - 1) + (self.index,)
      return jax.lax.dynamic_update_slice(old, new.astype(old.dtype), start)

    return KVCache(*map(put, self[:3], new[:3]), self.index + new.size)

  def join(self, new: 'KVCache') -> 'KVCache':
    """What is new after all of this memory; the size grows."""
    def put(old, new):
      return jnp.concatenate([old, new.astype(old.dtype)], -1)

    return KVCache(*map(put, self[:3], new[:3]), self.index + new.size)

  def latest(self, size: int) -> 'KVCache':
    """The last so many tokens."""
    return KVCache(*(a[..., self.size - size :] for a in self[:3]), self.index)


class Attention(SequenceLayer):
  """Multi-head self-attention, causal unless told otherwise."""

  num_heads: int = 4
  positions: Positions = Rotary(parent=None)
  num_key_value_heads: int = 0  # 0: as many as heads; 1: multi-query; between: grouped-query
  window: int = 0  # how many of the latest tokens are seen, the own one included; 0: all
  soft_cap: float = 0.0  # the bound of the scores; 0: none
  query_key_norm: bool = False
  query_key_epsilon: float = 1e-6  # of those norms
  key_width: int = 0  # K, of each head's queries and keys; 0: the model's width shared by the heads
  value_width: int = 0  # V, of its values; 0: the same
  use_bias: bool = False  # of all projections
  input_bias: bool = False  # of those to queries, keys and values, and not of the output's
  causal: bool = True
  form: str = 'auto'

  padding_takes_time: ClassVar[bool] = True  # and a place in the memory

  def __post_init__(self):
    super().__post_init__()
    at_least(self, 1, 'num_heads')
    at_least(self, 0, 'num_key_value_heads', 'window', 'soft_cap', 'key_width', 'value_width',
             'query_key_epsilon')
    one_of(self, 'form', FORMS)
    if self.key_width % self.positions.head_multiple:
      multiple = self.positions.head_multiple
      raise ValueError(f'these positions take a key_width in multiples of {multiple}, '
                       f'not {self.key_width}')
    if self.positions.by_distance and self.key_width != self.value_width:
      raise ValueError('positions by distance take values as wide as keys')
    if not self.causal and (self.window or self.positions.by_distance):
      raise ValueError('attention that looks both ways has no window and no positions by distance')
    heads, shared = self.num_heads, self.num_key_value_heads
    if shared and heads % shared:
      raise ValueError(f'{heads} heads cannot share {shared} keys equally: a divisor is needed')

  @property
  def input_layer(self):
    """What the positions add to the embeddings, if they are absolute."""
    return self.positions.input_layer

  @property
  def bidirectional(self):
    """The same without a causal mask, unless there is an order to its window or distances."""
    if self.window or self.positions.by_distance:
      return None
    return self.clone(causal=False)

  @property
  def receptive_field(self):
    """The window."""
    return self.window or None

  @property
  def width_multiple(self):
    """Heads of equal width, each one that the positions can take."""
    return self.num_heads * self.positions.head_multiple

  @property
  def key_heads(self) -> int:
    """How many heads of keys and values there are."""
    return self.num_key_value_heads or self.num_heads

  def head_widths(self, width: int) -> tuple[int, int]:
    """K and V; a ValueError if the heads do not share the width equally."""
    suits(self, width)
    share = width // self.num_heads
    return self.key_width or share, self.value_width or share

  def memory_size(self, capacity: int) -> int:
    """S: room for all tokens, or for those that the next one will see."""
    return min(capacity, self.window - 1) if self.window else capacity

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Room for `capacity` keys and values, or for the window."""
    size = self.memory_size(capacity)
    key, value = (
      jnp.zeros((batch_size, self.key_heads, channels, size), dtype)
      for channels in self.head_widths(width)
    )
    return KVCache(
      key=key,
      value=value,
      valid=jnp.zeros((batch_size, size), bool),
      index=jnp.zeros((), jnp.int32),
    )

  def project(self, x, index):
    """Queries [B, H, T, K], keys and values [B, key_heads, T, K or V] of x [B, T, D]."""
    key_width, value_width = self.head_widths(x.shape[2])

    def project(heads, channels, name):
      options = {'use_bias': self.use_bias or self.input_bias, 'dtype': x.dtype, 'name': name}
      return nn.DenseGeneral((heads, channels), **options)(x).swapaxes(1, 2)

    split = (self.num_heads, self.num_heads + self.key_heads)
    if key_width == value_width:  # one product instead of two
      projected = project(self.num_heads + 2 * self.key_heads, key_width, 'projection')
      query, key, value = jnp.split(projected, split, 1)
    else:
      projected = project(self.num_heads + self.key_heads, key_width, 'projection')
      query, key = jnp.split(projected, split[:1], 1)
      value = project(self.key_heads, value_width, 'value_projection')
    if self.query_key_norm:
      query = RMSNorm(self.query_key_epsilon, dtype=x.dtype, name='query_norm')(query)
      key = RMSNorm(self.query_key_epsilon, dtype=x.dtype, name='key_norm')(key)
    return self.positions.rotate(query, index), self.positions.rotate(key, index), value

  def update_cache(self, state, new: KVCache):
    """What can be seen, where in it the first new token stands, and the next state."""
    if state is None:
      return new, 0, new.latest(self.memory_size(new.size))
    if self.window:
      seen = state.join(new)
      return seen, state.size, seen.latest(state.size)
    seen = state.append(new)
    return seen, state.index, seen

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    index = jnp.arange(length) if state is None else state.index + jnp.arange(length)
    query, key, value = self.project(masked(x, mask), index)
    valid = jnp.ones((batch_size, length), bool) if mask is None else mask
    new = KVCache(key.swapaxes(2, 3), value.swapaxes(2, 3), valid, jnp.int32(length))
    seen, offset, after = self.update_cache(state, new)

    all_valid = state is None and mask is None
    valid = None if all_valid else seen.valid
    attention_mask = AttentionMask(offset, self.window, valid, self.causal)
    distances = min(self.window, seen.size) if self.window else seen.size
    relative = self.positions.relative(distances, self.num_heads, query.shape[-1])
    shared = self.num_heads // self.key_heads
    query = query.reshape(batch_size, self.key_heads, shared, *query.shape[2:])
    key, value = seen.key.astype(x.dtype), seen.value.astype(x.dtype)
    sow_weights(self, query, key, attention_mask, relative, self.soft_cap)
    y = attend(query, key, value, attention_mask, relative, self.soft_cap, self.form)
    y = y.reshape(batch_size, self.num_heads, length, y.shape[-1])
    # More tokens than there is room for: the answer is NaN, never silently wrong.
    if not self.window or after.size < self.window - 1:
      y = jnp.where(after.index <= after.size, y, jnp.nan)
    output = {'use_bias': self.use_bias, 'dtype': x.dtype, 'name': 'output'}
    y = nn.DenseGeneral(width, (1, 3), **output)(y)
    return y, after


class SlidingWindow(Attention):
  """Attention to the latest tokens alone: its state does not grow."""

  window: int = 16

  def __post_init__(self):
    at_least(self, 1, 'window')  # 0 would be all tokens
    super().__post_init__()
