"""Copy, reverse and sort: the simplest transductions, in which all of the source must get across.

A source is n random symbols and END, and its target the same symbols in another order:

  copy  y_i = x_i        reverse  y_i = x_(n + 1 - i)        sort  y_1 <= y_2 <= ... <= y_n

Copying asks that nothing be lost between encoder and decoder, reversing that the last symbol come
out first, sorting that each find its place among all the others. n symbols out of A are n log2 A
bits, less where their order is lost: the length at which a model fails says how many it holds.

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
from experiments.lab.tasks.task import Batch, certain
from experiments.lab.tasks.transduction import Transduction


@dataclasses.dataclass(frozen=True)
class SequenceCopying(Transduction):
  """Sources of `min_length` to `max_length` symbols, every length as likely as any other."""

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
        f'min_length={self.min_length}: {self.family} of max_length {self.max_length} takes 1 to'
        f' {self.max_length}'
      )
    if self.alphabet_size < 2:
      raise ValueError(f'alphabet_size={self.alphabet_size}: {self.family} needs 2 symbols')

  @abc.abstractmethod
  def rank(self, source: jax.Array) -> jax.Array:  # [B, S] -> [B, S]
    """What the symbols of a source are put in order by."""

  @property
  def vocabulary_size(self) -> int:
    """The alphabet, after the tokens that have a meaning of their own."""
    return RESERVED + self.alphabet_size

  @property
  def source_length(self) -> int:
    """Room for the longest source and its END."""
    return self.max_length + 1

  @property
  def target_length(self) -> int:
    """A target is as long as its source."""
    return self.source_length

  @property
  def distance(self) -> int:
    """The longest length."""
    return self.max_length

  @property
  def likeliest(self) -> list[int]:
    """Symbols of a target that is as likely as any: of the shortest length, evenly mixed."""
    return sorted(number % self.alphabet_size for number in range(self.min_length))

  @property
  def sources(self) -> int:
    """How many sources have the likeliest target."""
    return 1

  @property
  def chance(self) -> float:
    """The probability of the likeliest target: of its length, then of its symbols."""
    lengths = self.max_length - self.min_length + 1
    return self.sources / self.alphabet_size**self.min_length / lengths

  def at(self, distance: int) -> 'SequenceCopying':
    """Another longest length; the shortest stays, where it is not longer than that."""
    shortest = min(self.min_length, distance)
    return dataclasses.replace(self, max_length=distance, min_length=shortest)

  def beyond(self, distance: int) -> 'SequenceCopying':
    """Only lengths that this task does not have."""
    return dataclasses.replace(self, max_length=distance, min_length=self.max_length + 1)

  def batch(self, split: str, index, batch_size: int) -> Batch:
    """Random symbols up to a random length."""
    length_key, symbol_key = jax.random.split(self.key(split, index))
    length = jax.random.randint(
      length_key, (batch_size, 1), self.min_length, self.max_length + 1
    )
    shape = batch_size, self.source_length
    symbols = jax.random.randint(symbol_key, shape, RESERVED, self.vocabulary_size)
    place = jnp.arange(self.source_length)[None, :]
    source = jnp.where(place < length, symbols, jnp.where(place == length, END, PAD))
    return self.sealed(source, self.answer(source))

  def answer(self, source: jax.Array) -> jax.Array:  # [B, S] -> [B, T]
    """The symbols in order; END and what fills up stay behind them."""
    last = jnp.iinfo(jnp.int32).max
    rank = jnp.where(source >= RESERVED, self.rank(source), last)
    return jnp.take_along_axis(source, jnp.argsort(rank, axis=1, stable=True), 1)

  def oracle(self, source: jax.Array) -> jax.Array:
    """Puts the source in order."""
    return certain(self.answer(source), self.vocabulary_size)

  def baseline(self, source: jax.Array) -> jax.Array:
    """The likeliest target, whatever the source."""
    symbols = RESERVED + jnp.array(self.likeliest)
    row = jnp.full((self.target_length,), PAD).at[: symbols.size + 1].set(jnp.append(symbols, END))
    return certain(jnp.broadcast_to(row, source.shape), self.vocabulary_size)

  def tokens(self, text: str) -> list[int]:
    """Numbers from 0, separated by blanks."""
    words = text.split()
    if not all(word.isdecimal() and int(word) < self.alphabet_size for word in words):
      last = self.alphabet_size - 1
      raise ValueError(f'{self.family} reads numbers from 0 to {last}, not {text!r}')
    return [*(RESERVED + int(word) for word in words), END]

  def test_sentences(self, index: int, batch_size: int) -> list[tuple[str, str]]:
    """The batch's symbols, which are the data themselves."""
    batch = self.batch('test', index, batch_size)
    sides = (map(self.text, np.asarray(side)) for side in (batch.source, batch.target))
    return list(zip(*sides, strict=True))

  def text(self, tokens) -> str:
    """The symbols as numbers from 0."""
    row = [int(token) for token in tokens]
    symbols = row[: row.index(END)] if END in row else row
    return ' '.join(str(token - RESERVED) for token in symbols if token >= RESERVED)


@dataclasses.dataclass(frozen=True)
class Copy(SequenceCopying):
  """The source, once more.

  Two examples (0 fills up, 2 ends, symbols are 3 and up; `.` has no weight):

    copy(max_length=8)
      source  14 7 7 3 18 2 0 0 0
      target  14 7 7 3 18 2 . . .

    copy(max_length=6, min_length=4, alphabet_size=5)
      source  3 7 4 4 6 3 2
      target  3 7 4 4 6 3 2

  Published: 128 symbols, lengths 8 to 64, tested at 65 to 128.
  """

  family: ClassVar[str] = 'copy'

  def rank(self, source: jax.Array) -> jax.Array:
    """Where they stand."""
    return jnp.broadcast_to(jnp.arange(source.shape[1]), source.shape)


@dataclasses.dataclass(frozen=True)
class Reverse(SequenceCopying):
  """The source from its end.

  Two examples (0 fills up, 2 ends, symbols are 3 and up; `.` has no weight):

    reverse(max_length=8)
      source  14 7 7  3 18 2 0 0 0
      target  18 3 7  7 14 2 . . .

    reverse(max_length=6, min_length=4, alphabet_size=5)
      source  3 7 4 4 6 3 2
      target  3 6 4 4 7 3 2

  Published: 128 symbols, lengths 8 to 64, tested at 65 to 128.
  """

  family: ClassVar[str] = 'reverse'

  def rank(self, source: jax.Array) -> jax.Array:
    """The last first."""
    return -jnp.broadcast_to(jnp.arange(source.shape[1]), source.shape)


@dataclasses.dataclass(frozen=True)
class Sort(SequenceCopying):
  """The symbols of the source from the smallest to the greatest.

  Two examples (0 fills up, 2 ends, symbols are 3 and up; `.` has no weight):

    sort(max_length=8)
      source  14 7 7  3 18 2 0 0 0
      target   3 7 7 14 18 2 . . .

    sort(max_length=6, min_length=4, alphabet_size=5)
      source  3 7 4 4 6 3 2
      target  3 3 4 4 6 7 2

  There is no published setting for symbols: Vinyals et al. sort real numbers.
  """

  family: ClassVar[str] = 'sort'

  @property
  def sources(self) -> int:
    """The orders that the likeliest target's symbols can come in."""
    repeated = collections.Counter(self.likeliest).values()
    return math.factorial(self.min_length) // math.prod(map(math.factorial, repeated))

  def rank(self, source: jax.Array) -> jax.Array:
    """Their own size."""
    return source
