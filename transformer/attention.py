"""Scaled dot-product self-attention, by default from each token to itself and all earlier tokens.

  Attention(Q, K, V) = softmax(Q K^T / sqrt(K)) V      (Vaswani et al. 2017, equation 1)

in H heads, each with separate projections. The path between any two tokens has a length of 1. The
state consists of the keys and values of all earlier tokens. It loses no information and grows with
the length. The following options reduce the state or bound the scores:

  multi-query, grouped-query   heads share keys and values   (Shazeer 2019; Ainslie et al. 2023)
  window                       only the latest w tokens      (Beltagy et al. 2020)
  soft cap                     scores c tanh(score / c)      (Gemma Team 2024)
  query-key norm               queries and keys normalized   (Dehghani et al. 2023)

Encoders use the same attention without a causal mask, `causal=False`. The attention weights of
every layer are available from `apply(..., mutable='intermediates')`.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer import platform
from transformer.banded_attention import banded_attention
from transformer.blocked_attention import blocked_attention
from transformer.dense import DenseGeneral
from transformer.dot_product import (
  AttentionMask,
  attention_weights,
  dense_attention,
  slice_position_terms,
  sort_position_terms_by_decreasing_distance,
)
from transformer.fused_attention import fused_attention, unsupported_reason
from transformer.layer import SequenceLayer, apply_mask
from transformer.normalization import RMSNorm
from transformer.options import check_width, require_one_of, require_option_values_at_least
from transformer.positions import Positions, RelativePositionTerms, Rotary

FORMS = ('auto', 'naive', 'blocked', 'fused', 'banded')
# Blocked attention is faster than dense attention for at least this number of queries.
# Banded attention is the fastest algorithm only if the window is at most this number of keys.
BLOCKED_MIN_LENGTH, BLOCKED_MIN_LENGTH_DEFAULT = {'cpu': 64}, 1024
# Below this number of queries, another algorithm is faster than banded attention.
# Banded attention is the fastest only if num_queries / window is at least this ratio.
BANDED_MIN_LENGTH, BANDED_MIN_WINDOWS = 64, 4
NO_POSITION_TERMS = RelativePositionTerms()


def attend(
  query, key, value, attention_mask: AttentionMask, relative_position_terms=NO_POSITION_TERMS,
  soft_cap=0.0, form='auto',
):
  """Computes softmax attention with the algorithm that `form` names, by default the fastest.

  Args:
    query: [B, H, R, T, K], R queries for each of H key heads.
    key: [B, H, K, S].
    value: [B, H, V, S].
    attention_mask: the keys that each query may attend to. A query without keys has the output 0.
    relative_position_terms: terms of the scores, keys and values that depend on the distance.
    soft_cap: the bound c of the scores; 0 for no bound.
    form: 'naive' (all scores together), 'blocked' (memory linear in the length), 'banded' (all
      scores within a window together), 'fused' (the kernel of cuDNN or Pallas) or 'auto' (the
      fastest of these on the platform).

  Returns:
    [B, H, R, T, V].

  Raises:
    ValueError: the requested algorithm does not support the inputs.

  Examples:
    Equal keys give each query the mean of the values up to its position.

    >>> query, key = jnp.ones((1, 1, 1, 3, 2)), jnp.ones((1, 1, 2, 3))
    >>> value = jnp.arange(3.0).reshape(1, 1, 1, 3)
    >>> y = attend(query, key, value, AttentionMask())
    >>> y.shape, [round(number, 3) for number in y.ravel().tolist()]
    ((1, 1, 1, 3, 1), [0.0, 0.5, 1.0])
    >>> y = attend(query, key, value, AttentionMask(causal=False), form='blocked')
    >>> [round(number, 3) for number in y.ravel().tolist()]
    [1.0, 1.0, 1.0]

  """
  if 0 in (query.shape[3], key.shape[3]):  # no query or no key
    return jnp.zeros((*query.shape[:4], value.shape[2]), value.dtype)
  if form in ('auto', 'fused'):
    reason = unsupported_reason(
      query, key, value, attention_mask, relative_position_terms, soft_cap)
    if reason is None:
      return fused_attention(query, key, value, attention_mask)
    if form == 'fused':
      raise ValueError(f'fused attention is not supported for these inputs: {reason}')
    form = fastest_attention_algorithm(query.shape[3], attention_mask.window)
  functions = {'naive': dense_attention, 'blocked': blocked_attention, 'banded': banded_attention}
  return functions[form](query, key, value, attention_mask, relative_position_terms, soft_cap)


def fastest_attention_algorithm(num_queries: int, window: int) -> str:
  """Returns the name of the platform's fastest attention algorithm that is not a fused kernel."""
  blocked_min_length = BLOCKED_MIN_LENGTH.get(
    platform.current_platform(), BLOCKED_MIN_LENGTH_DEFAULT)
  banded_min_length = max(BANDED_MIN_LENGTH, BANDED_MIN_WINDOWS * window)
  if 0 < window <= blocked_min_length and num_queries >= banded_min_length:
    return 'banded'
  return 'naive' if num_queries < blocked_min_length else 'blocked'


def sow_weights(
  module: nn.Module, query, key, attention_mask: AttentionMask,
  relative_position_terms=NO_POSITION_TERMS, soft_cap=0.0,
):
  """Stores the attention weights [B, heads, T, S] if the collection `intermediates` is mutable.

  Args:
    module: the layer in whose `intermediates` the weights are stored.
    query: [B, H, R, T, K].
    key: [B, H, K, S].
    attention_mask: the keys that each query may attend to.
    relative_position_terms: terms of the scores, keys and values that depend on the distance.
    soft_cap: the bound c of the scores; 0 for no bound.

  Returns:
    None. If the collection is not mutable, and during initialisation, nothing is stored.

  """
  if module.is_mutable_collection('intermediates') and not module.is_initializing():
    num_queries, num_keys = query.shape[3], key.shape[3]
    padded_relative_position_terms = sort_position_terms_by_decreasing_distance(
      relative_position_terms, num_queries, num_keys)
    terms = slice_position_terms(
      padded_relative_position_terms, attention_mask.offset, num_queries, num_keys)
    weight = attention_weights(query, key, attention_mask, terms, soft_cap)
    module.sow('intermediates', 'weights', weight.reshape(len(weight), -1, num_queries, num_keys))


class KVCache(NamedTuple):
  """A cache of the keys and values of all earlier tokens, or only of the most recent tokens."""

  key: jax.Array  # [B, H, K, S] for H key heads; the products are fast with S as the last axis
  value: jax.Array  # [B, H, V, S]
  valid: jax.Array  # [B, S] false at padding and in unused slots
  index: jax.Array  # [] the number of tokens processed so far

  @property
  def num_cache_slots(self) -> int:
    """The number S of tokens that the cache can store."""
    return self.valid.shape[-1]

  def write_to_free_cache_slots(self, new_tokens: 'KVCache') -> 'KVCache':
    """Stores new tokens in the first unused cache slots, so that the cache keeps its size."""
    def write_into_next_free_slots(cached_array, new_array):
      start = (0,) * (cached_array.ndim - 1) + (self.index,)
      return jax.lax.dynamic_update_slice(
        cached_array, new_array.astype(cached_array.dtype), start)

    arrays = map(write_into_next_free_slots, self[:3], new_tokens[:3])
    return KVCache(*arrays, self.index + new_tokens.num_cache_slots)

  def append_new_cache_slots(self, new_tokens: 'KVCache') -> 'KVCache':
    """Appends one cache slot for each new token, so that the cache grows."""
    def concatenate_along_cache_axis(cached_array, new_array):
      return jnp.concatenate([cached_array, new_array.astype(cached_array.dtype)], -1)

    arrays = map(concatenate_along_cache_axis, self[:3], new_tokens[:3])
    return KVCache(*arrays, self.index + new_tokens.num_cache_slots)

  def keep_last_cache_slots(self, num_cache_slots: int) -> 'KVCache':
    """Returns a cache with the last `num_cache_slots` slots only, for the most recent tokens."""
    first_slot = self.num_cache_slots - num_cache_slots
    return KVCache(*(a[..., first_slot:] for a in self[:3]), self.index)


class Attention(SequenceLayer):
  """Multi-head self-attention, causal by default.

  Examples:
    >>> layer = Attention(num_heads=2, num_key_value_heads=1)
    >>> x = jnp.ones((1, 3, 8))
    >>> (y, state), parameters = jax.jit(layer.init_with_output)(jax.random.key(0), x)
    >>> y.shape, state.key.shape
    ((1, 3, 8), (1, 1, 4, 3))

    Calls with single tokens, from a state with a capacity of 3 tokens, have the same outputs.

    >>> step, state, outputs = jax.jit(layer.apply), layer.initial_state(1, 3, 8), []
    >>> for t in range(3):
    ...   output, state = step(parameters, x[:, t : t + 1], state)
    ...   outputs.append(output)
    >>> bool(jnp.allclose(jnp.concatenate(outputs, 1), y, atol=1e-5))
    True

  """

  num_heads: int = 4
  positions: Positions = Rotary(parent=None)
  num_key_value_heads: int = 0  # 0: num_heads; 1: multi-query; between: grouped-query
  window: int = 0  # the number of latest tokens attended to, the current token included; 0: all
  soft_cap: float = 0.0  # the bound of the scores; 0: no bound
  query_key_norm: bool = False
  query_key_epsilon: float = 1e-6  # of the query-key norms
  key_width: int = 0  # K, of each head's queries and keys; 0: D / num_heads
  value_width: int = 0  # V, of each head's values; 0: D / num_heads
  use_bias: bool = False  # in all projections
  input_bias: bool = False  # in the projections to queries, keys and values, not in the output's
  causal: bool = True
  form: str = 'auto'

  padding_occupies_positions: ClassVar[bool] = True  # padding occupies slots of the cache

  def __post_init__(self):
    super().__post_init__()
    require_option_values_at_least(self, 1, 'num_heads')
    require_option_values_at_least(
      self, 0, 'num_key_value_heads', 'window', 'soft_cap', 'key_width', 'value_width',
      'query_key_epsilon')
    require_one_of(self, 'form', FORMS)
    if self.key_width % self.positions.required_head_width_divisor:
      multiple = self.positions.required_head_width_divisor
      raise ValueError(f'the positions {type(self.positions).__name__} require a key_width among '
                       f'the multiples of {multiple}, not {self.key_width}')
    if self.positions.has_relative_position_terms and self.key_width != self.value_width:
      raise ValueError(f'the positions {type(self.positions).__name__} require a value_width equal '
                       'to key_width')
    if not self.causal and (self.window or self.positions.has_relative_position_terms):
      raise ValueError(
        'attention with causal=False supports no window and no ALiBi, T5Bias or Shaw positions')
    heads, shared = self.num_heads, self.num_key_value_heads
    if shared and heads % shared:
      raise ValueError(f'{heads} heads cannot share {shared} keys equally: num_heads must be a '
                       'multiple of num_key_value_heads')

  @property
  def input_layer(self):
    """The layer that adds absolute positions to the embeddings, or None if no layer adds them."""
    return self.positions.input_layer

  @property
  def bidirectional_version(self):
    """A copy of this layer without the causal mask, or None if its options require the mask."""
    if self.window or self.positions.has_relative_position_terms:
      return None
    return self.clone(causal=False)

  @property
  def receptive_field(self):
    """The number of tokens in the attention window, or None without a window."""
    return self.window or None

  @property
  def required_width_divisor(self):
    """The number by which the model width must be divisible, a multiple of the number of heads."""
    return self.num_heads * self.positions.required_head_width_divisor

  @property
  def num_key_heads(self) -> int:
    """The number of key heads, which equals the number of value heads."""
    return self.num_key_value_heads or self.num_heads

  def head_widths(self, width: int) -> tuple[int, int]:
    """Returns the key width K and the value width V of each head for the model width D.

    An invalid model width raises a ValueError.
    """
    check_width(self, width)
    share = width // self.num_heads
    return self.key_width or share, self.value_width or share

  def required_cache_slots(self, capacity: int) -> int:
    """Returns the number of cache slots for `capacity` tokens, at most window - 1 if windowed."""
    return min(capacity, self.window - 1) if self.window else capacity

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Returns an empty cache with slots for `required_cache_slots(capacity)` tokens."""
    size = self.required_cache_slots(capacity)
    key, value = (
      jnp.zeros((batch_size, self.num_key_heads, channels, size), dtype)
      for channels in self.head_widths(width)
    )
    return KVCache(
      key=key,
      value=value,
      valid=jnp.zeros((batch_size, size), bool),
      index=jnp.zeros((), jnp.int32),
    )

  def project_inputs(self, x, token_positions):
    """Projects x [B, T, D] to queries, keys and values, and encodes positions by rotation.

    Returns queries [B, H, T, K], keys [B, num_key_heads, T, K]
    and values [B, num_key_heads, T, V].
    """
    key_width, value_width = self.head_widths(x.shape[2])

    def project_to_heads(heads, channels, name):
      options = {'use_bias': self.use_bias or self.input_bias, 'dtype': x.dtype, 'name': name}
      return DenseGeneral((heads, channels), **options)(x).swapaxes(1, 2)

    boundaries = (self.num_heads, self.num_heads + self.num_key_heads)
    if key_width == value_width:  # one product instead of two
      projected = project_to_heads(self.num_heads + 2 * self.num_key_heads, key_width, 'projection')
      query, key, value = jnp.split(projected, boundaries, 1)
    else:
      projected = project_to_heads(self.num_heads + self.num_key_heads, key_width, 'projection')
      query, key = jnp.split(projected, boundaries[:1], 1)
      value = project_to_heads(self.num_key_heads, value_width, 'value_projection')
    if self.query_key_norm:
      query = RMSNorm(self.query_key_epsilon, dtype=x.dtype, name='query_norm')(query)
      key = RMSNorm(self.query_key_epsilon, dtype=x.dtype, name='key_norm')(key)
    rotate = self.positions.rotate
    return rotate(query, token_positions), rotate(key, token_positions), value

  def update_cache(self, state, new_tokens: KVCache):
    """Appends the keys and values of new tokens to those of the earlier tokens.

    Returns the cache to attend to, the slot of the first new token in it, and the next state.
    """
    if state is None:
      num_cache_slots = self.required_cache_slots(new_tokens.num_cache_slots)
      return new_tokens, 0, new_tokens.keep_last_cache_slots(num_cache_slots)
    if self.window:
      cache = state.append_new_cache_slots(new_tokens)
      return cache, state.num_cache_slots, cache.keep_last_cache_slots(state.num_cache_slots)
    cache = state.write_to_free_cache_slots(new_tokens)
    return cache, state.index, cache

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, length, width = x.shape
    token_positions = jnp.arange(length) if state is None else state.index + jnp.arange(length)
    query, key, value = self.project_inputs(apply_mask(x, mask), token_positions)
    valid = jnp.ones((batch_size, length), bool) if mask is None else mask
    new_tokens = KVCache(key.swapaxes(2, 3), value.swapaxes(2, 3), valid, jnp.int32(length))
    cache, offset, next_state = self.update_cache(state, new_tokens)

    all_valid = state is None and mask is None
    valid = None if all_valid else cache.valid
    attention_mask = AttentionMask(offset, self.window, valid, self.causal)
    num_distances = cache.num_cache_slots
    if self.window:
      num_distances = min(self.window, num_distances)
    relative_position_terms = self.positions.relative_position_terms(
      num_distances, self.num_heads, query.shape[-1])
    shared = self.num_heads // self.num_key_heads
    query = query.reshape(batch_size, self.num_key_heads, shared, *query.shape[2:])
    key, value = cache.key.astype(x.dtype), cache.value.astype(x.dtype)
    sow_weights(self, query, key, attention_mask, relative_position_terms, self.soft_cap)
    y = attend(query, key, value, attention_mask, relative_position_terms, self.soft_cap, self.form)
    y = y.reshape(batch_size, self.num_heads, length, y.shape[-1])
    # If tokens exceed the capacity of the cache, the outputs are NaN instead of wrong numbers.
    if not self.window or next_state.num_cache_slots < self.window - 1:
      y = jnp.where(next_state.index <= next_state.num_cache_slots, y, jnp.nan)
    output = {'use_bias': self.use_bias, 'dtype': x.dtype, 'name': 'output'}
    y = DenseGeneral(width, (1, 3), **output)(y)
    return y, next_state


class SlidingWindow(Attention):
  """Attention from each token to the last `window` tokens, with a state of constant size."""

  window: int = 16

  def __post_init__(self):
    require_option_values_at_least(self, 1, 'window')  # in the base class 0 means all tokens
    super().__post_init__()
