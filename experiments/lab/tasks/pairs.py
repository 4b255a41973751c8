"""Translation tasks on generated sentence pairs, which are stored as arrays of tokens.

The table of pairs is built once per process and is a constant of the compiled step. A batch samples
its rows. Every pair has a name, such as the number that it spells out. A hash of the name assigns
the pair to a split, so that a pair is in the same split in every table and in both directions of
translation.

The oracle looks up a source in the table by binary search of a hash of its tokens x_1, ..., x_S,

  h(x) = sum_s a_s x_s  mod 2^32,

whose multipliers a are resampled until no two sources of the table have the same hash. Carter and
Wegman 1979, "Universal classes of hash functions", for hashing by random sums.
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
from experiments.lab.tasks.task import SPLITS, Batch, one_hot_logits
from experiments.lab.tasks.text import split_of_file
from experiments.lab.tasks.transduction import Transduction


class SentencePair(NamedTuple):
  """A sentence, its translation, and a unique identifier that determines the split of the pair."""

  name: str
  source: str
  target: str


class SentencePairTable(NamedTuple):
  """N tokenised sentence pairs, sorted by the hashes of their source sentences."""

  source: np.ndarray  # int32 [N, S] tokens, padded
  target: np.ndarray  # int32 [N, T] tokens, padded
  hashes: np.ndarray  # uint32 [N] hashes of the sources
  multipliers: np.ndarray  # uint32 [S] multipliers of the hash function
  pairs: list[SentencePair]  # [N] texts
  rows: dict[str, np.ndarray]  # split -> indices of its pairs
  digest: str  # hash of all texts


@dataclasses.dataclass(frozen=True)
class PairTask(Transduction):
  """The base class of translation tasks that generate up to `pairs` sentence pairs.

  The vocabulary is trained on both languages of the training split of
  `task_for_learning_subword_vocabulary`.
  """

  source: str = ''
  target: str = ''
  pairs: int = 20_000
  vocabulary_size: int = 160

  solved: ClassVar[float] = 0.99
  unknown_token: ClassVar[int] = UNKNOWN

  def __post_init__(self):
    if self.pairs < 1:
      raise ValueError(f'pairs={self.pairs}: {self.family} needs at least 1 pair')
    if self.vocabulary_size <= UNKNOWN + 1:
      raise ValueError(
        f'vocabulary_size={self.vocabulary_size}: {self.family} needs at least one token per'
        f' character'
      )

  @property
  @abc.abstractmethod
  def task_for_learning_subword_vocabulary(self) -> 'PairTask':
    """The task on whose training sentences the vocabulary is trained.

    It is the same at all distances and in both directions of translation.
    """

  @abc.abstractmethod
  def sentence_pairs(self) -> Iterable[SentencePair]:
    """Generates the sentence pairs of the task, each with a unique identifier."""

  @property
  def vocabulary(self) -> Vocabulary:
    """The subword vocabulary that both languages share, which is cached in memory."""
    return learn_vocabulary(self.task_for_learning_subword_vocabulary)

  @property
  def sentence_pair_table(self) -> SentencePairTable:
    """The tokenised sentence pairs of the task, which are cached in memory."""
    return build_sentence_pair_table(self)

  @property
  def digest(self) -> str:
    """A hash of the sentence pairs and the vocabulary.

    Scores on data with different hashes are not comparable.
    """
    return f'{self.sentence_pair_table.digest}-{self.vocabulary.digest}'

  @property
  def source_length(self) -> int:
    return self.sentence_pair_table.source.shape[1]

  @property
  def target_length(self) -> int:
    return self.sentence_pair_table.target.shape[1]

  @property
  def chance_level(self) -> float:
    """The fraction of test targets that exactly match the prediction of the baseline."""
    target = self.sentence_pair_table.target[self.sentence_pair_table.rows['test']]
    correct = (target == np.argmax(token_frequencies(self), -1)[None, :]) & (target != UNKNOWN)
    return float(np.mean(np.all(correct | (target == PAD), 1)))

  def batch(self, split: str, index, batch_size: int) -> Batch:
    """Sentence pairs of a split, sampled uniformly with replacement."""
    table, rows = self.sentence_pair_table, self.sample_row_indices(split, index, batch_size)
    # Storing the table as a constant of the compiled step adds little compilation time.
    return self.make_batch(jnp.asarray(table.source)[rows], jnp.asarray(table.target)[rows])

  def sample_row_indices(self, split: str, index, batch_size: int) -> jax.Array:
    """Samples the indices of the sentence pairs of a batch uniformly with replacement.

    Args:
      split: 'train', 'validation' or 'test'.
      index: the number of the batch within the split, an int or a traced integer scalar.
      batch_size: the number of rows B.

    Returns:
      Indices [B] into the arrays of the table.

    """
    key, rows = self.batch_key(split, index), jnp.asarray(self.sentence_pair_table.rows[split])
    return rows[jax.random.randint(key, (batch_size,), 0, rows.size)]

  def sentence_pairs_of_test_batch(self, index: int, batch_size: int) -> list[tuple[str, str]]:
    """The original texts of the sentence pairs in a batch of the test split."""
    rows = np.asarray(self.sample_row_indices('test', index, batch_size))
    pairs = self.sentence_pair_table.pairs
    return [(pairs[row].source, pairs[row].target) for row in rows]

  def oracle_outputs(self, source: jax.Array) -> jax.Array:
    """Logits that predict the stored translation of each source, which is looked up by hash."""
    table = self.sentence_pair_table
    row = jnp.searchsorted(jnp.asarray(table.hashes), hash_token_rows(source, table.multipliers))
    return one_hot_logits(jnp.asarray(table.target)[row], self.vocabulary_size)

  def baseline_outputs(self, source: jax.Array) -> jax.Array:
    """Logits that are the log-frequencies of tokens at each position of the training targets."""
    logits = jnp.asarray(np.log(token_frequencies(self)), jnp.float32)
    return jnp.broadcast_to(logits, (len(source), *logits.shape))

  def tokenize(self, text: str) -> list[int]:
    return self.vocabulary.encode([text])[0]

  def detokenize(self, tokens) -> str:
    return self.vocabulary.decode(tokens)


@functools.cache
def learn_vocabulary(task: PairTask) -> Vocabulary:
  """Trains a vocabulary, with one token per digit, on the training sentences of a task."""
  names_and_texts = task.sentence_pairs()
  lines = (line for name, *texts in names_and_texts if split_of_file(name) == 'train'
           for line in texts)
  return Vocabulary.train(lines, task.vocabulary_size, split_digits=True)


@functools.cache
def build_sentence_pair_table(task: PairTask) -> SentencePairTable:
  """The tokenised sentence pairs of a task, sorted by the hashes of their source sentences.

  Raises:
    ValueError: if two pairs have the same source text, or if a split has no pair.

  """
  pairs = list(task.sentence_pairs())
  pair_of_source = {}
  for pair in pairs:
    first = pair_of_source.setdefault(pair.source, pair)
    if first is not pair:
      raise ValueError(f'{first.name} and {pair.name} have the same source {pair.source!r}')
  source, target = (pad_token_rows(task.vocabulary.encode([pair[side] for pair in pairs]))
                    for side in (1, 2))
  multipliers, hashes = find_hash_function_without_collisions(source)
  order = np.argsort(hashes)
  splits = np.array([split_of_file(pairs[row].name) for row in order])
  rows = {split: np.flatnonzero(splits == split) for split in SPLITS}
  for split, split_rows in rows.items():
    if not split_rows.size:
      raise ValueError(
        f'{task.family} has no pair for {split} among {len(pairs)}; increase `pairs`'
      )
  text = '\n'.join('\t'.join(pair) for pair in sorted(pairs))
  digest = hashlib.sha256(text.encode()).hexdigest()[:12]
  ordered = [pairs[row] for row in order]
  return SentencePairTable(
    source[order], target[order], hashes[order], multipliers, ordered, rows, digest
  )


@functools.cache
def token_frequencies(task: PairTask) -> np.ndarray:
  """The frequency of each token at each position of the training targets, as an array [T, V].

  Add-one smoothing keeps all frequencies positive.
  """
  target = task.sentence_pair_table.target[task.sentence_pair_table.rows['train']]
  position = np.broadcast_to(np.arange(target.shape[1]), target.shape)
  counts = np.ones((target.shape[1], task.vocabulary_size))
  np.add.at(counts, (position[target != PAD], target[target != PAD]), 1)
  return counts / counts.sum(1, keepdims=True)


def pad_token_rows(rows: Sequence[Sequence[int]]) -> np.ndarray:
  """Pads rows of tokens to the length of the longest row, and returns one array [N, length]."""
  padded = np.full((len(rows), max(map(len, rows))), PAD, np.int32)
  for i, row in enumerate(rows):
    padded[i, : len(row)] = row
  return padded


def hash_token_rows(tokens, multipliers: np.ndarray):
  """Hashes each row of tokens by the sum of tokens times multipliers, modulo 2^32.

  Tokens are [N, S], multipliers are [S] and hashes are [N]. NumPy and JAX arrays have the same
  hashes.
  """
  return (tokens.astype(np.uint32) * multipliers[None, :]).sum(1, dtype=np.uint32)


def find_hash_function_without_collisions(
  token_rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns hash multipliers [S] under which no token rows [N, S] collide, and the hashes [N].

  Raises:
    ValueError: if two rows are equal.

  """
  generator, num_distinct = np.random.default_rng(0), len(np.unique(token_rows, axis=0))
  if num_distinct < len(token_rows):
    raise ValueError(
      f'{len(token_rows)} sources have {num_distinct} distinct token rows; increase vocabulary_size'
    )
  while True:
    multipliers = generator.integers(0, 2**32, token_rows.shape[1], np.uint32)
    hashes = hash_token_rows(token_rows, multipliers)
    if np.unique(hashes).size == len(token_rows):
      return multipliers, hashes
