"""Associative recall: what was said of this key before.

A sequence states K pairs (key, value), then asks for every key once, at a gap g drawn without
replacement with

  p(g) ∝ g^(a-1),  g = 1, 2, ..., (L - 2K) / 2,

so that most keys are asked for soon and some late, as words are in natural text. A layer solves it
if it can look back by content; a state of fixed size must hold all K pairs at once.

Arora, Eyuboglu et al. 2024, "Zoology: Measuring and improving recall in efficient language models".
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from experiments.lab.tasks import draws
from experiments.lab.tasks.task import Batch, Space, Task, certain, uniform


@dataclasses.dataclass(frozen=True)
class Recall(Task):
  """Multi-query associative recall as Zoology generates it.

  Keys are drawn without replacement from 1, ..., V/2 - 1, values from V/2, ..., V - 1. Key i stands
  at 2i, its value at 2i + 1, and its query 2 (g - 1) tokens after the pairs, where the target is
  the value. All else is 0, or any token if `random_non_queries`. Two examples (`.` has no weight):

    recall(length=16, num_pairs=2, vocabulary_size=12)
      source  2 8 4 7 0 0 4 0 0 0 0 0 2 0 0 0
      target  . . . . . . 7 . . . . . 8 . . .

    recall(length=12, num_pairs=3, vocabulary_size=16, random_non_queries=True)
      source  5 9 1 15 3 8 5 12 3 5 1 0
      target  . . . .  . . 9 .  8 . 15 .

  Published: V = 8192, a = 0.01, (L, K) = (64, 4), (128, 8), (256, 16), (512, 64), batches of 512 to
  128 of them, 100,000 sequences to train on for 64 epochs and 3,000 to test.
  """

  length: int = 64
  num_pairs: int = 4
  vocabulary_size: int = 8192
  power: float = 0.01
  random_non_queries: bool = False

  family: ClassVar[str] = 'recall'
  axis: ClassVar[str] = 'length'
  solved: ClassVar[float] = 0.99

  def __post_init__(self):
    most = min(self.vocabulary_size // 2 - 1, self.length // 4)
    if self.length < 4 or self.length % 2:
      raise ValueError(f'length={self.length}: recall needs an even length of at least 4')
    if self.vocabulary_size < 4:
      raise ValueError(
        f'vocabulary_size={self.vocabulary_size}: recall needs 4 tokens, for a key and a value'
      )
    if not math.isfinite(self.power):
      raise ValueError(f'power={self.power}: recall takes a finite number')
    if not 1 <= self.num_pairs <= most:
      raise ValueError(
        f'num_pairs={self.num_pairs}: length {self.length} and vocabulary {self.vocabulary_size}'
        f' have room for 1 to {most} (length / 4 and vocabulary_size / 2 - 1 bound it)'
      )

  @property
  def inputs(self) -> Space:
    """Tokens: 0, then the keys, then the values."""
    return Space('tokens', self.vocabulary_size)

  @property
  def distance(self) -> int:
    """The length: a query can be as far as that from its pair."""
    return self.length

  @property
  def chance(self) -> float:
    """Every value is equally likely: 1 over their number."""
    return 1 / (self.vocabulary_size - self.first_value)

  @property
  def first_value(self) -> int:
    """The lowest token that is a value; below it stand the keys and 0."""
    return self.vocabulary_size // 2

  def at(self, distance: int) -> 'Recall':
    """Another length, with the number of pairs in proportion (rounded down, at least one)."""
    num_pairs = max(1, self.num_pairs * distance // self.length)
    return dataclasses.replace(self, length=distance, num_pairs=num_pairs)

  def batch(self, split: str, index, batch_size: int) -> Batch:
    """Pairs, then one query a pair; made in the order keys, values, gaps, filling."""
    key_key, value_key, gap_key, fill_key = jax.random.split(self.key(split, index), 4)
    count, values = self.num_pairs, self.vocabulary_size - self.first_value
    keys = 1 + draws.distinct(key_key, batch_size, count, self.first_value - 1)
    values = self.first_value + draws.distinct(value_key, batch_size, count, values)
    pairs = jnp.stack([keys, values], -1).reshape(batch_size, 2 * count)

    # In the order drawn, which favours short gaps for the first keys: the published generator does.
    gaps = 1 + jnp.arange((self.length - 2 * count) // 2)
    log_weights = (self.power - 1) * jnp.log(gaps)
    gap = draws.distinct_weighted(gap_key, batch_size, count, log_weights)
    row, query = jnp.arange(batch_size)[:, None], 2 * count + 2 * gap

    empty = jnp.zeros((batch_size, self.length), jnp.int32)
    source = empty
    if self.random_non_queries:
      source = jax.random.randint(fill_key, empty.shape, 0, self.vocabulary_size)
    source = source.at[:, : 2 * count].set(pairs).at[row, query].set(keys)
    weight = jnp.zeros(empty.shape).at[row, query].set(1.0)
    return Batch(source, empty.at[row, query].set(values), weight)

  def oracle(self, source: jax.Array) -> jax.Array:
    """At each token that is a key, its value."""
    pairs = source[:, : 2 * self.num_pairs]
    match = source[:, :, None] == pairs[:, None, ::2]  # [B, T, K]
    return certain(jnp.sum(match * pairs[:, None, 1::2], -1), self.vocabulary_size)

  def baseline(self, source: jax.Array) -> jax.Array:
    """Any value, all equally likely."""
    is_value = jnp.arange(self.vocabulary_size) >= self.first_value
    return jnp.broadcast_to(uniform(is_value), (*source.shape, self.vocabulary_size))
