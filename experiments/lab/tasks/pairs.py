"""Pairs of sentences from a table: what is said in one language, and the same in another.

The table is made once a process and is a constant of the compiled step, of which a batch draws
rows. Every pair has a name, such as the number that it says. Names are dealt to the splits by their
hash: a pair is in the same split in every table, whichever way it is translated.

A source is found again by a hash of its tokens x_1, ..., x_S,

  h(x) = sum_s a_s x_s  mod 2^32,

with multipliers a drawn until no two sources of the table share a value: the oracle is a binary
search. Carter and Wegman 1979, "Universal classes of hash functions", for hashing by random sums.
"""

import abc
import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.corpora.reserved import PAD
from experiments.lab.corpora.vocabulary import UNKNOWN, Vocabulary
from experiments.lab.tasks.task import SPLITS, Batch, certain
from experiments.lab.tasks.text import split_of
from experiments.lab.tasks.transduction import Transduction


class Pair(NamedTuple):
  """A sentence in both languages, and the name that deals it to a split."""

  name: str
  source: str
  target: str


class Table(NamedTuple):
  """Pairs as tokens."""

  source: np.ndarray  # int32 [N, S], in the order of their hashes
  target: np.ndarray  # int32 [N, T]
  hashes: np.ndarray  # uint32 [N]
  multipliers: np.ndarray  # uint32 [S]
  pairs: list[Pair]  # [N] the same as text
  rows: dict[str, np.ndarray]  # split -> the rows of its pairs
  digest: str  # of all pairs


@dataclasses.dataclass(frozen=True)
class Pairs(Transduction):
  """Translate the sentences of a table of at most `pairs` pairs.

  The vocabulary is learnt from the training split of `textbook`, both languages together.
  """

  source: str = ''
  target: str = ''
  pairs: int = 20_000
  vocabulary_size: int = 160

  solved: ClassVar[float] = 0.99
  unknown: ClassVar[int] = UNKNOWN

  def __post_init__(self):
    if self.pairs < 1:
      raise ValueError(f'pairs={self.pairs}: {self.family} needs pairs to learn from')
    if self.vocabulary_size <= UNKNOWN + 1:
      raise ValueError(
        f'vocabulary_size={self.vocabulary_size}: {self.family} needs a token a character'
      )

  @property
  @abc.abstractmethod
  def textbook(self) -> 'Pairs':
    """The task that the vocabulary is learnt from: the same at all distances and both ways."""

  @abc.abstractmethod
  def sentences(self) -> Iterable[Pair]:
    """The pairs of the table, no name twice."""

  @property
  def vocabulary(self) -> Vocabulary:
    """Pieces of words of both languages, kept in memory after the first time."""
    return learn(self.textbook)

  @property
  def table(self) -> Table:
    """The pairs, kept in memory after the first time."""
    return tabulate(self)

  @property
  def digest(self) -> str:
    """Names pairs and vocabulary: scores compare only under the same digest."""
    return f'{self.table.digest}-{self.vocabulary.digest}'

  @property
  def source_length(self) -> int:
    """The longest source of the table and its END."""
    return self.table.source.shape[1]

  @property
  def target_length(self) -> int:
    """The longest target of the table and its END."""
    return self.table.target.shape[1]

  @property
  def chance(self) -> float:
    """How often the guess's likeliest tokens happen to be a target of the test split."""
    target = self.table.target[self.table.rows['test']]
    right = (target == np.argmax(frequencies(self), -1)[None, :]) & (target != UNKNOWN)
    return float(np.mean(np.all(right | (target == PAD), 1)))

  def batch(self, split: str, index, batch_size: int) -> Batch:
    """Pairs of the split, every one as likely as any other."""
    table, drawn = self.table, self.drawn(split, index, batch_size)
    # Constants of the compiled step, as the text of the task `text` is.
    return self.sealed(jnp.asarray(table.source)[drawn], jnp.asarray(table.target)[drawn])

  def drawn(self, split: str, index, batch_size: int) -> jax.Array:  # [B]
    """The rows of the table that a batch has."""
    key, rows = self.key(split, index), jnp.asarray(self.table.rows[split])
    return rows[jax.random.randint(key, (batch_size,), 0, rows.size)]

  def test_sentences(self, index: int, batch_size: int) -> list[tuple[str, str]]:
    """The sentences of the table, as they were before they became tokens."""
    drawn = (self.table.pairs[row] for row in np.asarray(self.drawn('test', index, batch_size)))
    return [(pair.source, pair.target) for pair in drawn]

  def oracle(self, source: jax.Array) -> jax.Array:
    """Looks the source up."""
    table = self.table
    row = jnp.searchsorted(jnp.asarray(table.hashes), hashed(source, table.multipliers))
    return certain(jnp.asarray(table.target)[row], self.vocabulary_size)

  def baseline(self, source: jax.Array) -> jax.Array:
    """How frequent tokens are at each place of the training split's targets."""
    logits = jnp.asarray(np.log(frequencies(self)), jnp.float32)
    return jnp.broadcast_to(logits, (len(source), *logits.shape))

  def tokens(self, text: str) -> list[int]:
    """The pieces of a sentence."""
    return self.vocabulary.encode([text])[0]

  def text(self, tokens) -> str:
    """The sentence."""
    return self.vocabulary.decode(tokens)


@functools.cache
def learn(task: Pairs) -> Vocabulary:
  """A vocabulary from the training split of a task's sentences, in which digits stand alone."""
  lines = (line for name, *pair in task.sentences() if split_of(name) == 'train' for line in pair)
  return Vocabulary.train(lines, task.vocabulary_size, split_digits=True)


@functools.cache
def tabulate(task: Pairs) -> Table:
  """A task's sentences as tokens; ValueError where a source has two meanings, or a split none."""
  pairs = list(task.sentences())
  known = {}
  for pair in pairs:
    other = known.setdefault(pair.source, pair)
    if other is not pair:
      raise ValueError(f'{other.name} and {pair.name} are both {pair.source!r} in the source')
  source, target = (padded(task.vocabulary.encode([pair[side] for pair in pairs]))
                    for side in (1, 2))
  multipliers, hashes = distinguish(source)
  order = np.argsort(hashes)
  splits = np.array([split_of(pairs[row].name) for row in order])
  rows = {split: np.flatnonzero(splits == split) for split in SPLITS}
  for split, found in rows.items():
    if not found.size:
      raise ValueError(f'{task.family} has no pair for {split} among {len(pairs)}: ask for more')
  said = '\n'.join('\t'.join(pair) for pair in sorted(pairs))
  digest = hashlib.sha256(said.encode()).hexdigest()[:12]
  ordered = [pairs[row] for row in order]
  return Table(source[order], target[order], hashes[order], multipliers, ordered, rows, digest)


@functools.cache
def frequencies(task: Pairs) -> np.ndarray:  # [T, V]
  """Of each token at each place of the training split's targets, every one counted once more."""
  target = task.table.target[task.table.rows['train']]
  place = np.broadcast_to(np.arange(target.shape[1]), target.shape)
  counts = np.ones((target.shape[1], task.vocabulary_size))
  np.add.at(counts, (place[target != PAD], target[target != PAD]), 1)
  return counts / counts.sum(1, keepdims=True)


def padded(rows: Sequence[Sequence[int]]) -> np.ndarray:
  """Rows of tokens as one array [N, length], filled up to the longest."""
  filled = np.full((len(rows), max(map(len, rows))), PAD, np.int32)
  for place, row in enumerate(rows):
    filled[place, : len(row)] = row
  return filled


def hashed(tokens, multipliers: np.ndarray):  # [N, S], [S] -> [N]
  """The hash of each row, in NumPy or in JAX: both count modulo 2^32."""
  return (tokens.astype(np.uint32) * multipliers[None, :]).sum(1, dtype=np.uint32)


def distinguish(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Multipliers [S] under which different rows [N, S] have different hashes [N], and these."""
  generator, distinct = np.random.default_rng(0), len(np.unique(rows, axis=0))
  if distinct < len(rows):
    raise ValueError(f'{len(rows)} sources have {distinct} spellings: the vocabulary is too small')
  while True:
    multipliers = generator.integers(0, 2**32, rows.shape[1], np.uint32)
    hashes = hashed(rows, multipliers)
    if np.unique(hashes).size == len(rows):
      return multipliers, hashes
