"""Associative recall, in which a model retrieves the value that was paired with a key.

A sequence of length L begins with K pairs (key, value) and then queries every key once, at a gap g
that is sampled without replacement with

  p(g) ∝ g^(a-1),  g = 1, 2, ..., (L - 2K) / 2.

Most keys are therefore queried at a small gap and some at a large gap, similar to repeated words in
natural text. The task requires retrieval by content. A state of fixed size must store all K pairs.

Arora, Eyuboglu et al. 2024, "Zoology: Measuring and improving recall in efficient language models".
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from experiments.lab.tasks import draws
from experiments.lab.tasks.task import Batch, Space, Task, one_hot_logits, uniform_logits


@dataclasses.dataclass(frozen=True)
class Recall(Task):
  """Multi-query associative recall with the data distribution of the paper "Zoology".

  Keys are sampled without replacement from 1, ..., V/2 - 1, and values from V/2, ..., V - 1. Key i
  is at position 2i, its value at 2i + 1, and its query 2 (g - 1) tokens after the pairs, where the
  target is the value. All other tokens are 0, or random if `random_non_queries`. Two examples (`.`
  has no weight):

    recall(length=16, num_pairs=2, vocabulary_size=12)
      source  2 8 4 7 0 0 4 0 0 0 0 0 2 0 0 0
      target  . . . . . . 7 . . . . . 8 . . .

    recall(length=12, num_pairs=3, vocabulary_size=16, random_non_queries=True)
      source  5 9 1 15 3 8 5 12 3 5 1 0
      target  . . . .  . . 9 .  8 . 15 .

  Published: V = 8192, a = 0.01, (L, K) = (64, 4), (128, 8), (256, 16), (512, 64), batches of 512 to
  128 of them, 100,000 sequences to train on for 64 epochs and 3,000 to test.

  Two layers of attention of width 64 reach an accuracy of 0.997 in 950 steps, or 190 seconds on two
  CPU cores, because the head is applied at the 4 queries of the 64 positions alone:

    python -m experiments.ladder --preset=quick --layers='attention(num_heads=1)'
      --tasks='recall(length=64)' --lengths=64 --batch_size=512 --steps=3000 --seeds=1
      --learning_rates=2.15e-3 --weight_decay=0.1 --validations=60 --validation_batches=1
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
        f'vocabulary_size={self.vocabulary_size}: recall needs at least 4 tokens, including one key'
        f' and two values'
      )
    if not math.isfinite(self.power):
      raise ValueError(f'power={self.power}: recall needs a finite number')
    if not 1 <= self.num_pairs <= most:
      raise ValueError(
        f'num_pairs={self.num_pairs}: length {self.length} and vocabulary size'
        f' {self.vocabulary_size} allow 1 to {most} pairs (length / 4 and vocabulary_size / 2 - 1'
        f' are upper bounds)'
      )

  @property
  def input_space(self) -> Space:
    """The filler token 0, the key tokens and the value tokens, in this order."""
    return Space('tokens', self.vocabulary_size)

  @property
  def dependency_distance(self) -> int:
    """The sequence length, an upper bound on the distance between a pair and its query."""
    return self.length

  @property
  def chance_level(self) -> float:
    """The accuracy of a uniform random prediction of a value."""
    return 1 / (self.vocabulary_size - self.first_value_token)

  @property
  def first_value_token(self) -> int:
    """The lowest token id that represents a value, which follows the ids of all keys."""
    return self.vocabulary_size // 2

  @property
  def num_scored_positions(self) -> int:
    """The number of queries, one for each pair."""
    return self.num_pairs

  def with_dependency_distance(self, distance: int) -> 'Recall':
    """A copy of this task with another length and a proportional number of pairs, at least one."""
    num_pairs = max(1, self.num_pairs * distance // self.length)
    return dataclasses.replace(self, length=distance, num_pairs=num_pairs)

  def batch(self, split: str, index, batch_size: int) -> Batch:
    """Random key-value pairs, followed by one query for each key at a random position."""
    key_key, value_key, gap_key, fill_key = jax.random.split(self.batch_key(split, index), 4)
    count, values = self.num_pairs, self.vocabulary_size - self.first_value_token
    keys = 1 + draws.sample_distinct(key_key, batch_size, count, self.first_value_token - 1)
    values = self.first_value_token + draws.sample_distinct(value_key, batch_size, count, values)
    pairs = jnp.stack([keys, values], -1).reshape(batch_size, 2 * count)

    # As in the Zoology paper, each key has a sampled gap between the key-value pairs and its query.
    # Gaps between the pairs and queries are sampled key by key, without replacement.
    # If power < 1, small gaps are more probable, so the first keys tend to be queried earlier.
    gaps = 1 + jnp.arange((self.length - 2 * count) // 2)
    log_weights = (self.power - 1) * jnp.log(gaps)
    gap = draws.sample_weighted_without_replacement(gap_key, batch_size, count, log_weights)
    row, query = jnp.arange(batch_size)[:, None], 2 * count + 2 * gap

    empty = jnp.zeros((batch_size, self.length), jnp.int32)
    source = empty
    if self.random_non_queries:
      source = jax.random.randint(fill_key, empty.shape, 0, self.vocabulary_size)
    source = source.at[:, : 2 * count].set(pairs).at[row, query].set(keys)
    weight = jnp.zeros(empty.shape).at[row, query].set(1.0)
    return Batch(source, empty.at[row, query].set(values), weight)

  def oracle_outputs(self, source: jax.Array) -> jax.Array:
    """Logits that predict, at each position, the value that is paired with the input key."""
    pairs = source[:, : 2 * self.num_pairs]
    match = source[:, :, None] == pairs[:, None, ::2]  # [B, T, K]
    return one_hot_logits(jnp.sum(match * pairs[:, None, 1::2], -1), self.vocabulary_size)

  def baseline_outputs(self, source: jax.Array) -> jax.Array:
    """Logits of the uniform distribution over all values."""
    is_value = jnp.arange(self.vocabulary_size) >= self.first_value_token
    return jnp.broadcast_to(uniform_logits(is_value), (*source.shape, self.vocabulary_size))
