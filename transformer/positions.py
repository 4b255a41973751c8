"""Where am I: what tells attention, which by itself sees a set, that its input is a sequence.

Absolute encodings are layers, x_t + p_t, which a model applies once to its embeddings:
  sinusoidal   p_t = [sin(t w_i), cos(t w_i)], w_i = 10000^(-2i/D)   (Vaswani et al. 2017, 3.5)
  learned      p_t = row t of a table                                (Gehring et al. 2017)
Relative encodings act where a query at t meets a key at s, inside each attention layer:
  rotary       turns both by their position: the product sees t - s  (Su et al. 2021);
               `transformer.stretched_rotary` has forms for texts longer than those of training
  alibi        adds -m_h (t - s), slope m_h = 2^(-8h/H) for H = 2^n  (Press et al. 2022)
  t5_bias      adds b_h[bucket(t - s)], buckets growing as logarithms (Raffel et al. 2020)
  shaw         adds a vector of min(t - s, k) to the key, another to the value (Shaw et al. 2018)
What they add is a function of the distance t - s alone: a table with a row for each distance.
"""

import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from transformer.layer import SequenceLayer
from transformer.options import above, at_least


class Relative(NamedTuple):
  """What the distances 0 .. N - 1 between a query and a key add; None: nothing."""

  score: jax.Array | None = None  # [N, H] to the score of each head
  key: jax.Array | None = None  # [N, K] to the key
  value: jax.Array | None = None  # [N, K] to the value


class Positions(nn.Module):
  """No positions, and the interface of those that there are: each overrides what it needs."""

  @property
  def input_layer(self) -> SequenceLayer | None:
    """The layer that adds positions to the embeddings, for absolute encodings."""
    return None

  @property
  def by_distance(self) -> bool:
    """Whether `relative` adds anything: then a query looks at no key after it."""
    return False

  @property
  def head_multiple(self) -> int:
    """The head widths that this encoding can take are the multiples of this."""
    return 1

  def rotate(self, x: jax.Array, index: jax.Array) -> jax.Array:
    """Queries or keys x [B, H, T, K] standing at positions index [T]."""
    del index
    return x

  def relative(self, num_distances: int, num_heads: int, head_width: int) -> Relative:
    """What each of N distances adds where one of H query heads meets a key of width K."""
    del num_distances, num_heads, head_width
    return Relative()


class AddPositions(SequenceLayer):
  """x_t + p_t; its state is the position of the next token."""

  receptive_field: ClassVar[int] = 1
  padding_takes_time: ClassVar[bool] = True

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Position 0."""
    return jnp.zeros((), jnp.int32)

  def table(self, index: jax.Array, width: int) -> jax.Array:
    """The vectors p [T, D] of positions index [T]."""
    raise TypeError(f'{type(self).__name__} has no table of positions')

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):
    start = jnp.zeros((), jnp.int32) if state is None else state
    index = start + jnp.arange(x.shape[1])
    return x + self.table(index, x.shape[2]).astype(x.dtype)[None], start + x.shape[1]


class AddSinusoid(AddPositions):
  """p_t = [sin(t w_i), cos(t w_i)], w_i = base^(-2i/D)."""

  base: float = 10000.0

  def table(self, index, width):
    """Sines in the first half, cosines in the second; an odd width drops the last cosine."""
    half = (width + 1) // 2
    frequency = jnp.exp(-math.log(self.base) * jnp.arange(half) / half)
    angle = index[:, None].astype(jnp.float32) * frequency[None]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], -1)[:, :width]


class AddLearned(AddPositions):
  """p_t = row t of a table of max_length rows; beyond it the answer is NaN, never a wrong row."""

  max_length: int = 2048

  def table(self, index, width):
    """Rows of the table."""
    rows = self.param('positions', nn.initializers.normal(0.02), (self.max_length, width))
    known = (index < self.max_length)[:, None]
    return jnp.where(known, rows[jnp.minimum(index, self.max_length - 1)], jnp.nan)


class Sinusoidal(Positions):
  """The paper's sines and cosines."""

  base: float = 10000.0

  def __post_init__(self):
    super().__post_init__()
    above(self, 0, 'base')

  @property
  def input_layer(self):
    """Adds them."""
    return AddSinusoid(base=self.base, parent=None)


class Learned(Positions):
  """A trained vector for each of max_length positions."""

  max_length: int = 2048

  def __post_init__(self):
    super().__post_init__()
    at_least(self, 1, 'max_length')

  @property
  def input_layer(self):
    """Adds them."""
    return AddLearned(max_length=self.max_length, parent=None)


class Rotary(Positions):
  """Turns each pair of channels (i, i + K/2) by t base^(-2i/K) / stretch."""

  base: float = 10000.0
  stretch: float = 1.0  # so many times as long a text turns as far (Chen et al. 2023)
  head_multiple: ClassVar[int] = 2

  def __post_init__(self):
    super().__post_init__()
    for name, least in (('base', 1), ('stretch', 0.001)):  # float32 has the largest frequency
      if not least <= getattr(self, name) < math.inf:
        raise ValueError(f'rotary positions need a finite {name} of at least {least}, '
                         f'not {getattr(self, name):g}')

  def frequencies(self, pairs: int) -> list[float]:
    """The angle from one token to the next of each pair of channels, in Python's float64."""
    return [self.base ** (-pair / pairs) / self.stretch for pair in range(pairs)]

  def angles(self, index: jax.Array, pairs: int) -> jax.Array:
    """The angles [T, pairs] at positions index [T], in float32."""
    # A frequency's error grows with the position that it is multiplied by: float64 until here.
    frequency = jnp.array(self.frequencies(pairs), jnp.float32)
    return index[:, None].astype(jnp.float32) * frequency[None]

  @property
  def magnitude(self) -> float:
    """The factor on queries and on keys that goes with the turn."""
    return 1.0

  def rotate(self, x, index):
    """The turn; angles are computed in float32, whatever x is."""
    half = x.shape[-1] // 2
    angle = self.angles(index, half)[None, None]
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    if self.magnitude != 1:
      cosine, sine = self.magnitude * cosine, self.magnitude * sine
    cosine, sine = cosine.astype(x.dtype), sine.astype(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate(
      [first * cosine - second * sine, second * cosine + first * sine], -1
    )


class ALiBi(Positions):
  """A penalty that grows with distance, at a slope of its own in each head."""

  by_distance: ClassVar[bool] = True

  def relative(self, num_distances, num_heads, head_width):
    """-m_h d for distance d."""
    slope = jnp.array(self.slopes(num_heads), jnp.float32)
    return Relative(score=-jnp.arange(num_distances, dtype=jnp.float32)[:, None] * slope[None])

  @staticmethod
  def slopes(num_heads: int) -> list[float]:
    """The slopes m_h: 2^(-8h/H), h = 1 .. H, for a number of heads H that is a power of two.

    For other numbers, as in the authors' code, the slopes for the largest power of two below H,
    then every other one of those for twice that power.
    """
    power = 1 << (num_heads.bit_length() - 1)
    slopes = [2 ** (-8 * head / power) for head in range(1, power + 1)]
    between = [2 ** (-4 * head / power) for head in range(1, 2 * power + 1, 2)]
    return slopes + between[: num_heads - power]


class T5Bias(Positions):
  """A trained scalar for each head and bucket of distance (the causal half of T5's buckets)."""

  num_buckets: int = 32
  max_distance: int = 128

  by_distance: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    at_least(self, 2, 'num_buckets')
    exact = self.num_buckets // 2
    if self.max_distance <= exact:
      raise ValueError(
        f'T5Bias needs max_distance > {exact}, not {self.max_distance}: {exact} of '
        f'{self.num_buckets} buckets are for the distances below {exact}, one each'
      )

  @nn.compact
  def relative(self, num_distances, num_heads, head_width):
    """Half of the buckets count exactly, the rest up to max_distance logarithmically."""
    exact = self.num_buckets // 2
    distance = jnp.arange(num_distances)
    ratio = jnp.log(jnp.maximum(distance, 1) / exact) / math.log(self.max_distance / exact)
    far = exact + (ratio * (self.num_buckets - exact)).astype(jnp.int32)
    bucket = jnp.where(distance < exact, distance, jnp.minimum(far, self.num_buckets - 1))
    table = self.param('bias', nn.initializers.normal(0.02), (self.num_buckets, num_heads))
    return Relative(score=table[bucket])


class Shaw(Positions):
  """A trained vector for the key and one for the value; beyond max_distance they are the same."""

  max_distance: int = 16

  by_distance: ClassVar[bool] = True

  def __post_init__(self):
    super().__post_init__()
    at_least(self, 1, 'max_distance')

  @nn.compact
  def relative(self, num_distances, num_heads, head_width):
    """Shared by the heads, as in the paper."""
    distance = jnp.minimum(jnp.arange(num_distances), self.max_distance)

    def table(name):
      shape = (self.max_distance + 1, head_width)
      return self.param(name, nn.initializers.normal(head_width**-0.5), shape)[distance]

    return Relative(key=table('key'), value=table('value'))


POSITIONS = {
  'none': Positions,
  'sinusoidal': Sinusoidal,
  'learned': Learned,
  'rotary': Rotary,
  'alibi': ALiBi,
  't5_bias': T5Bias,
  'shaw': Shaw,
}
