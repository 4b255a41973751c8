"""Absolute and relative position encodings of attention.

Absolute encodings are layers, x_t + p_t, that a model applies once to its embeddings:
  sinusoidal   p_t = [sin(t w_i), cos(t w_i)], w_i = 10000^(-2i/D)   (Vaswani et al. 2017, 3.5)
  learned      p_t = row t of a table                                (Gehring et al. 2017)
Relative encodings act inside each attention layer, on a query at t and a key at s:
  rotary       rotates both by their position, so that their product depends on t - s
               (Su et al. 2021); `transformer.stretched_rotary` has forms for long contexts
  alibi        adds -m_h (t - s), slope m_h = 2^(-8h/H) for H = 2^n  (Press et al. 2022)
  t5_bias      adds b_h[bucket(t - s)], with logarithmic buckets     (Raffel et al. 2020)
  shaw         adds a vector of min(t - s, k) to the key, another to the value (Shaw et al. 2018)
The terms that the last three add depend on the distance t - s alone, so that a table with one row
for each distance holds them.
"""

import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer.layer import SequenceLayer
from transformer.options import require_option_values_at_least, require_option_values_greater_than


class RelativePositionTerms(NamedTuple):
  """Terms that attention adds to scores, keys and values, tabulated by the query-key distance.

  Row d is for the distance d from query to key, 0 <= d < N. A term that a position
  encoding does not use is None.
  """

  score: jax.Array | None = None  # [N, H] added to the score of each head
  key: jax.Array | None = None  # [N, K] added to the key
  value: jax.Array | None = None  # [N, K] added to the value


class Positions(nn.Module):
  """Base class of position encodings, which itself encodes no positions."""

  @property
  def input_layer(self) -> SequenceLayer | None:
    """The layer that adds absolute positions to the embeddings, or None if no layer adds them."""
    return None

  @property
  def has_relative_position_terms(self) -> bool:
    """Whether attention adds relative position terms, which requires a causal mask."""
    return False

  @property
  def required_head_width_divisor(self) -> int:
    """The number that must divide the width K of each head."""
    return 1

  def rotate(self, x: jax.Array, token_positions: jax.Array) -> jax.Array:
    """Rotates queries or keys x [B, H, T, K] by the positions [T] of their tokens.

    Only rotary encodings rotate, and this base class returns x unchanged.
    """
    del token_positions
    return x

  def relative_position_terms(
    self, num_distances: int, num_heads: int, head_width: int
  ) -> RelativePositionTerms:
    """Returns the terms that attention adds to scores, keys and values at each query-key distance.

    Args:
      num_distances: N, the number of distances 0 .. N - 1.
      num_heads: H, the number of query heads.
      head_width: K, the width of each query and key.

    Returns:
      Tables with N rows, or None for each term that the encoding does not add.

    """
    del num_distances, num_heads, head_width
    return RelativePositionTerms()


class AddPositions(SequenceLayer):
  """Base class of layers that add an absolute position vector to each token embedding.

  The state is the position of the next token.
  """

  receptive_field: ClassVar[int] = 1
  padding_occupies_positions: ClassVar[bool] = True

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Returns the position 0 of the first token."""
    return jnp.zeros((), jnp.int32)

  def position_vectors(self, token_positions: jax.Array, width: int) -> jax.Array:
    """Returns the vectors [T, D] that are added to tokens at the positions [T]."""
    raise TypeError(f'{type(self).__name__} does not implement position_vectors')

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):
    start = jnp.zeros((), jnp.int32) if state is None else state
    token_positions = start + jnp.arange(x.shape[1])
    vectors = self.position_vectors(token_positions, x.shape[2]).astype(x.dtype)
    return x + vectors[None], start + x.shape[1]


class AddSinusoid(AddPositions):
  """Adds the sinusoids p_t = [sin(t w_i), cos(t w_i)] with frequencies w_i = base^(-2i/D)."""

  base: float = 10000.0

  def position_vectors(self, token_positions, width):
    """Returns concatenated sines and cosines, without the last cosine if the width is odd."""
    half = (width + 1) // 2
    frequency = jnp.exp(-math.log(self.base) * jnp.arange(half) / half)
    angle = token_positions[:, None].astype(jnp.float32) * frequency[None]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)[:, :width]


class AddLearned(AddPositions):
  """Adds row t of a trained table to token t, or NaN beyond the end of the table."""

  max_length: int = 2048

  def position_vectors(self, token_positions, width):
    """Returns rows of the trained table, with NaN for positions beyond the table."""
    rows = self.param('positions', nn.initializers.normal(0.02), (self.max_length, width))
    in_table = (token_positions < self.max_length)[:, None]
    return jnp.where(in_table, rows[jnp.minimum(token_positions, self.max_length - 1)], jnp.nan)


class Sinusoidal(Positions):
  """Absolute positions encoded by fixed sines and cosines, as in the original Transformer.

  Examples:
    >>> y, next_position = Sinusoidal().input_layer.apply({}, jnp.zeros((1, 2, 4)))
    >>> [round(number, 2) for number in y[0, 1].tolist()], int(next_position)
    ([0.84, 0.01, 0.54, 1.0], 2)

  """

  base: float = 10000.0

  def __post_init__(self):
    super().__post_init__()
    require_option_values_greater_than(self, 0, 'base')

  @property
  def input_layer(self):
    """The layer that adds sines and cosines to the embeddings."""
    return AddSinusoid(base=self.base, parent=None)


class Learned(Positions):
  """Absolute positions encoded by a trained vector for each position below max_length."""

  max_length: int = 2048

  def __post_init__(self):
    super().__post_init__()
    require_option_values_at_least(self, 1, 'max_length')

  @property
  def input_layer(self):
    """The layer that adds a trained vector for each position to the embeddings."""
    return AddLearned(max_length=self.max_length, parent=None)


class Rotary(Positions):
  """Rotates channels (i, i + K/2) of token t by the angle t base^(-2i/K) / stretch.

  Examples:
    The product of a rotated query and a rotated key depends on their distance alone.

    >>> query, key = jnp.array([[[[1.0, 2.0]]], [[[3.0, 1.0]]]])  # [B, H, T, K] each
    >>> def product(query_position, key_position):
    ...   rotated_query = Rotary().rotate(query[None], jnp.array([query_position]))
    ...   rotated_key = Rotary().rotate(key[None], jnp.array([key_position]))
    ...   return round(float(jnp.sum(rotated_query * rotated_key)), 2)
    >>> product(5, 3), product(2, 0)
    (-6.63, -6.63)

  """

  base: float = 10000.0
  stretch: float = 1.0  # the factor by which all frequencies are divided (Chen et al. 2023)
  required_head_width_divisor: ClassVar[int] = 2

  def __post_init__(self):
    super().__post_init__()
    # With these bounds the largest rotation frequency is finite in float32.
    for name, minimum in (('base', 1), ('stretch', 0.001)):
      if not minimum <= getattr(self, name) < math.inf:
        raise ValueError(f'rotary positions need a finite {name} of at least {minimum}, '
                         f'not {getattr(self, name):g}')

  def rotation_frequencies(self, num_pairs: int) -> list[float]:
    """Returns the rotation angle per token of each pair of channels, in radians."""
    return [self.base ** (-pair / num_pairs) / self.stretch for pair in range(num_pairs)]

  def rotation_angles(self, token_positions: jax.Array, num_pairs: int) -> jax.Array:
    """Returns the rotation angles [T, num_pairs] of tokens at the positions [T], in float32."""
    # Frequencies are computed in float64, because the position multiplies their rounding errors.
    frequency = jnp.array(self.rotation_frequencies(num_pairs), jnp.float32)
    return token_positions[:, None].astype(jnp.float32) * frequency[None]

  @property
  def query_key_scale(self) -> float:
    """The factor that multiplies rotated queries and keys, which is 1 except in YaRN."""
    return 1.0

  def rotate(self, x, token_positions):
    """Rotates queries or keys x [B, H, T, K] by the positions [T] of their tokens.

    The angles are float32 for every dtype of x.
    """
    half = x.shape[-1] // 2
    angle = self.rotation_angles(token_positions, half)[None, None]
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    if self.query_key_scale != 1:
      cosine, sine = self.query_key_scale * cosine, self.query_key_scale * sine
    cosine, sine = cosine.astype(x.dtype), sine.astype(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate(
      [first * cosine - second * sine, second * cosine + first * sine], -1
    )


class ALiBi(Positions):
  """A penalty on attention scores that is linear in the distance, with one slope for each head.

  Examples:
    >>> tables = ALiBi().relative_position_terms(num_distances=3, num_heads=2, head_width=4)
    >>> tables.score.tolist()  # a row for each distance, a column for each head
    [[-0.0, -0.0], [-0.0625, -0.00390625], [-0.125, -0.0078125]]

  """

  has_relative_position_terms: ClassVar[bool] = True

  def relative_position_terms(self, num_distances, num_heads, head_width):
    """Returns the bias -m_h d of the score at each distance d, where m_h is the slope of head h."""
    slope = jnp.array(self.head_slopes(num_heads), jnp.float32)
    score = -jnp.arange(num_distances, dtype=jnp.float32)[:, None] * slope[None]
    return RelativePositionTerms(score=score)

  @staticmethod
  def head_slopes(num_heads: int) -> list[float]:
    """Returns the slope m_h = 2^(-8h/H) of each head h from 1 to H, for a power of two H.

    For other values of H, as in the authors' code, the slopes are those of the largest power of two
    below H, followed by every second slope of twice that power.
    """
    power = 1 << (num_heads.bit_length() - 1)
    slopes = [2 ** (-8 * head / power) for head in range(1, power + 1)]
    between = [2 ** (-4 * head / power) for head in range(1, 2 * power + 1, 2)]
    return slopes + between[: num_heads - power]


class T5Bias(Positions):
  """A trained bias on attention scores for each head and each bucket of distances, as in T5.

  Only the half of T5's buckets for earlier keys is used, because attention is causal.
  """

  num_buckets: int = 32
  max_distance: int = 128

  has_relative_position_terms: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    require_option_values_at_least(self, 2, 'num_buckets')
    exact = self.num_buckets // 2
    if self.max_distance <= exact:
      raise ValueError(
        f'T5Bias needs max_distance > {exact}, not {self.max_distance}: {exact} of '
        f'{self.num_buckets} buckets contain a single distance below {exact} each'
      )

  @nn.compact
  def relative_position_terms(self, num_distances, num_heads, head_width):
    """Returns, for each distance, the trained bias of the bucket that contains the distance.

    Half of the buckets hold one distance each. The others grow logarithmically up to max_distance.
    """
    exact = self.num_buckets // 2
    distance = jnp.arange(num_distances)
    ratio = jnp.log(jnp.maximum(distance, 1) / exact) / math.log(self.max_distance / exact)
    logarithmic = exact + (ratio * (self.num_buckets - exact)).astype(jnp.int32)
    bucket = jnp.where(distance < exact, distance, jnp.minimum(logarithmic, self.num_buckets - 1))
    table = self.param('bias', nn.initializers.normal(0.02), (self.num_buckets, num_heads))
    return RelativePositionTerms(score=table[bucket])


class Shaw(Positions):
  """Relative positions encoded by trained vectors that are added to keys and values.

  Each distance up to max_distance has separate vectors, and larger distances share those of
  max_distance.
  """

  max_distance: int = 16

  has_relative_position_terms: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    require_option_values_at_least(self, 1, 'max_distance')

  @nn.compact
  def relative_position_terms(self, num_distances, num_heads, head_width):
    """Returns the trained vectors of each distance for keys and values, shared by all heads."""
    distance = jnp.minimum(jnp.arange(num_distances), self.max_distance)

    def learned_embeddings(name):
      shape = (self.max_distance + 1, head_width)
      return self.param(name, nn.initializers.normal(head_width**-0.5), shape)[distance]

    return RelativePositionTerms(key=learned_embeddings('key'), value=learned_embeddings('value'))


POSITIONS = {
  'none': Positions,
  'sinusoidal': Sinusoidal,
  'learned': Learned,
  'rotary': Rotary,
  'alibi': ALiBi,
  't5_bias': T5Bias,
  'shaw': Shaw,
}
