"""Sequence copying, reversal and sorting, where the target is a permutation of the source symbols.

A source has n random symbols and END. Its target has the same symbols in another order:

  copy  y_i = x_i        reverse  y_i = x_(n + 1 - i)        sort  y_1 <= y_2 <= ... <= y_n

All three require that the encoder passes all symbols to the decoder. Reversing also requires the
last symbol first, and sorting requires a comparison of all symbols. n symbols of an alphabet of
size A carry n log2 A bits, and fewer for sorting, where their order is irrelevant. The length at
which a model fails therefore measures how many bits it can pass from the encoder to the decoder.

Grefenstette et al. 2015, "Learning to transduce with unbounded memory", section 4.1, for copy and
reverse; Vinyals, Bengio and Kudlur 2016, "Order matters: sequence to sequence for sets", section 4,
for sort.
"""

import abc
import collections
import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.corpora.reserved import END, PAD, RESERVED
from experiments.lab.tasks.task import Batch, one_hot_logits
from experiments.lab.tasks.transduction import Transduction


@dataclasses.dataclass(frozen=True)
class SequenceCopying(Transduction):
  """The base class of tasks that reorder between `min_length` and `max_length` random symbols.

  All lengths have the same probability.
  """

  max_length: int = 20
  min_length: int = 1
  alphabet_size: int = 16

  axis: ClassVar[str] = 'length'
  solved: ClassVar[float] = 0.99

  def __post_init__(self):
    if self.max_length < 1:
      raise ValueError(f'max_length={self.max_length}: {self.family} needs at least 1 symbol')
    if not 1 <= self.min_length <= self.max_length:
      raise ValueError(
        f'min_length={self.min_length}: for max_length {self.max_length}, {self.family} allows 1 to'
        f' {self.max_length}'
      )
    if self.alphabet_size < 2:
      raise ValueError(
        f'alphabet_size={self.alphabet_size}: {self.family} needs at least 2 symbols'
      )

  @abc.abstractmethod
  def sort_keys_for_target_order(self, source: jax.Array) -> jax.Array:
    """The sort key of each source symbol, as an array [B, S].

    A target contains the source symbols in ascending order of their sort keys.
    """

  @property
  def vocabulary_size(self) -> int:
    """The number of reserved tokens plus the size of the alphabet."""
    return RESERVED + self.alphabet_size

  @property
  def source_length(self) -> int:
    return self.max_length + 1

  @property
  def target_length(self) -> int:
    """The maximum length of a target, which equals the maximum length of a source."""
    return self.source_length

  @property
  def dependency_distance(self) -> int:
    """The maximum number of source symbols, which sets how far a symbol can be from its copy."""
    return self.max_length

  @property
  def most_likely_target_symbols(self) -> list[int]:
    """The symbols of a target sequence that is most probable if the source is unknown.

    This target has the smallest length and contains the symbols of the alphabet equally often, as
    far as possible.
    """
    return sorted(number % self.alphabet_size for number in range(self.min_length))

  @property
  def num_sources_mapped_to_most_frequent_target(self) -> int:
    """The number of distinct source sequences that have the most likely target sequence."""
    return 1

  @property
  def chance_level(self) -> float:
    """The exact-match rate of a baseline that always predicts the most likely target.

    It equals the probability of this target.
    """
    num_lengths = self.max_length - self.min_length + 1
    num_sources = self.num_sources_mapped_to_most_frequent_target
    return num_sources / self.alphabet_size**self.min_length / num_lengths

  def with_dependency_distance(self, distance: int) -> 'SequenceCopying':
    """A copy of this task whose sources have at most `distance` symbols.

    This maximum is the dependency distance of the task. A larger minimum number of symbols is
    reduced to `distance`.
    """
    min_length = min(self.min_length, distance)
    return dataclasses.replace(self, max_length=distance, min_length=min_length)

  def extrapolation_task(self, dependency_distance: int) -> 'SequenceCopying':
    """A copy of this task with only sources longer than the original maximum length."""
    return dataclasses.replace(
      self, max_length=dependency_distance, min_length=self.max_length + 1
    )

  def batch(self, split: str, index, batch_size: int) -> Batch:
    """Sources of random length with random symbols, and their targets."""
    length_key, symbol_key = jax.random.split(self.batch_key(split, index))
    length = jax.random.randint(
      length_key, (batch_size, 1), self.min_length, self.max_length + 1
    )
    shape = batch_size, self.source_length
    symbols = jax.random.randint(symbol_key, shape, RESERVED, self.vocabulary_size)
    position = jnp.arange(self.source_length)[None, :]
    source = jnp.where(position < length, symbols, jnp.where(position == length, END, PAD))
    return self.make_batch(source, self.target_from_source(source))

  def target_from_source(self, source: jax.Array) -> jax.Array:
    """The targets [B, T] of the sources [B, S], with END and padding after the symbols."""
    last = jnp.iinfo(jnp.int32).max
    keys = jnp.where(source >= RESERVED, self.sort_keys_for_target_order(source), last)
    return jnp.take_along_axis(source, jnp.argsort(keys, axis=1, stable=True), 1)

  def oracle_outputs(self, source: jax.Array) -> jax.Array:
    return one_hot_logits(self.target_from_source(source), self.vocabulary_size)

  def baseline_outputs(self, source: jax.Array) -> jax.Array:
    """Logits that predict the same most likely target sequence for all sources."""
    symbols = RESERVED + jnp.array(self.most_likely_target_symbols)
    row = jnp.full((self.target_length,), PAD).at[: symbols.size + 1].set(jnp.append(symbols, END))
    return one_hot_logits(jnp.broadcast_to(row, source.shape), self.vocabulary_size)

  def tokenize(self, text: str) -> list[int]:
    """The tokens of a text such as '3 0 1', in which each number represents a symbol."""
    words = text.split()
    if not all(word.isdecimal() and int(word) < self.alphabet_size for word in words):
      last = self.alphabet_size - 1
      raise ValueError(f'{self.family} needs numbers from 0 to {last}, not {text!r}')
    return [*(RESERVED + int(word) for word in words), END]

  def sentence_pairs_of_test_batch(self, index: int, batch_size: int) -> list[tuple[str, str]]:
    """The source and target texts of a test batch, restored exactly from their tokens."""
    batch = self.batch('test', index, batch_size)
    sides = (map(self.detokenize, np.asarray(side)) for side in (batch.source, batch.target))
    return list(zip(*sides, strict=True))

  def detokenize(self, tokens) -> str:
    """The text of a row of tokens, such as '3 0 1', with one number for each symbol."""
    row = [int(token) for token in tokens]
    symbols = row[: row.index(END)] if END in row else row
    return ' '.join(str(token - RESERVED) for token in symbols if token >= RESERVED)


@dataclasses.dataclass(frozen=True)
class Copy(SequenceCopying):
  """Copying, in which the target equals the source.

  Two examples (0 is PAD, 2 is END, symbols are 3 and up; `.` has no weight):

    copy(max_length=8)
      source  14 7 7 3 18 2 0 0 0
      target  14 7 7 3 18 2 . . .

    copy(max_length=6, min_length=4, alphabet_size=5)
      source  3 7 4 4 6 3 2
      target  3 7 4 4 6 3 2

  Published: 128 symbols, lengths 8 to 64, tested at 65 to 128.
  """

  family: ClassVar[str] = 'copy'

  def sort_keys_for_target_order(self, source: jax.Array) -> jax.Array:
    """The position of each symbol, as a sort key that leaves the sequence unchanged."""
    return jnp.broadcast_to(jnp.arange(source.shape[1]), source.shape)


@dataclasses.dataclass(frozen=True)
class Reverse(SequenceCopying):
  """Reversal, in which the target has the symbols of the source in reverse order.

  Two examples (0 is PAD, 2 is END, symbols are 3 and up; `.` has no weight):

    reverse(max_length=8)
      source  14 7 7  3 18 2 0 0 0
      target  18 3 7  7 14 2 . . .

    reverse(max_length=6, min_length=4, alphabet_size=5)
      source  3 7 4 4 6 3 2
      target  3 6 4 4 7 3 2

  Published: 128 symbols, lengths 8 to 64, tested at 65 to 128.
  """

  family: ClassVar[str] = 'reverse'

  def sort_keys_for_target_order(self, source: jax.Array) -> jax.Array:
    """The negative position of each symbol, as a sort key that reverses the sequence."""
    return -jnp.broadcast_to(jnp.arange(source.shape[1]), source.shape)


@dataclasses.dataclass(frozen=True)
class Sort(SequenceCopying):
  """Sorting, in which the target has the symbols of the source in ascending order.

  Two examples (0 is PAD, 2 is END, symbols are 3 and up; `.` has no weight):

    sort(max_length=8)
      source  14 7 7  3 18 2 0 0 0
      target   3 7 7 14 18 2 . . .

    sort(max_length=6, min_length=4, alphabet_size=5)
      source  3 7 4 4 6 3 2
      target  3 3 4 4 6 7 2

  There is no published setting for symbols, because Vinyals et al. sort real numbers.
  """

  family: ClassVar[str] = 'sort'

  @property
  def num_sources_mapped_to_most_frequent_target(self) -> int:
    """The number of distinct source sequences that, once sorted, equal the most likely target.

    They are the distinct permutations of this target.
    """
    repeated = collections.Counter(self.most_likely_target_symbols).values()
    return math.factorial(self.min_length) // math.prod(map(math.factorial, repeated))

  def sort_keys_for_target_order(self, source: jax.Array) -> jax.Array:
    """The symbols as their own sort keys, so that the target is in ascending order."""
    return source
