"""Translation of natural text from any translation data set of TensorFlow Datasets.

Sentence pairs are grouped by length into a few buckets, and batches have about the same number of
tokens instead of the same number of rows (`buckets`). The host makes them from a memory-mapped file
(`reader`). They cannot be generated inside a compiled step, which `streams` declares. A batch is
still a pure function of its index. The index alone is therefore the state of the input pipeline,
and training resumes exactly from a stored index.

Bojar et al. 2014, "Findings of the 2014 workshop on statistical machine translation"; the default
settings are those of Vaswani et al. 2017, section 5.1, for English to German.
"""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.corpora import reader
from experiments.lab.corpora.buckets import BatchShape, Buckets, batch_shapes
from experiments.lab.corpora.reader import CorpusError, PreparedCorpus
from experiments.lab.corpora.reserved import END
from experiments.lab.corpora.vocabulary import UNKNOWN
from experiments.lab.tasks.task import SPLITS, Batch, one_hot_logits
from experiments.lab.tasks.transduction import Transduction

EMPTY = 1  # number of tokens of an empty sentence, which is END alone


@dataclasses.dataclass(frozen=True)
class Corpus(Transduction):
  """The task of translating sentences of a parallel corpus, within given length limits.

  The longer sentence of a pair has min_length + 1 to max_length tokens. A translation is not
  determined by its source, so that there is no oracle. The baseline is never an exact match.
  Rows that pad the last batch of a bucket are empty and have no weight.

  Generated text is scored against the original sentences of the data set, not against detokenised
  targets. Pairs with an empty sentence or with another length are in no batch.
  `count_excluded_test_pairs` counts such pairs of the test split.
  """

  dataset: str = 'wmt14_translate/de-en'
  source: str = 'en'
  target: str = 'de'
  vocabulary_size: int = 37000
  batch_tokens: int = 25000  # source tokens of a batch, and target tokens; 0 uses `batch_size`
  max_length: int = 256
  min_length: int = 0

  family: ClassVar[str] = 'corpus'
  axis: ClassVar[str] = 'tokens'
  streams: ClassVar[bool] = True
  chance_level: ClassVar[float] = 0.0
  unknown_token: ClassVar[int] = UNKNOWN

  def __post_init__(self):
    if self.source == self.target:
      raise ValueError(f'source={self.source}: the target must be another language')
    if self.vocabulary_size <= UNKNOWN + 1:
      raise ValueError(
        f'vocabulary_size={self.vocabulary_size}: a corpus needs at least one token per character'
      )
    if self.batch_tokens < 0:
      raise ValueError(f'batch_tokens={self.batch_tokens}: it must be at least 0')
    if not 0 <= self.min_length < self.max_length:
      raise ValueError(f'min_length={self.min_length}: it must be from 0 to below max_length='
                       f'{self.max_length}')

  @property
  def prepared_corpus(self) -> PreparedCorpus:
    """The tokenised data set, which is prepared and cached at the first access."""
    return reader.load_corpus(self.dataset, self.source, self.target, self.vocabulary_size)

  @property
  def digest(self) -> str:
    """A hash of the vocabulary and all sentence pairs."""
    return self.prepared_corpus.digest

  @property
  def title(self) -> str:
    return f'{self.dataset}, {self.source} to {self.target}'

  @property
  def dependency_distance(self) -> int:
    """The maximum sentence length in tokens, an upper bound on the distance between two tokens."""
    return self.max_length

  @property
  def source_length(self) -> int:
    """The maximum number of tokens per row over all batches, including padding."""
    return _batch_shapes(self, 1)[-1].tokens

  target_length = source_length  # sources and targets of a bucket have the same padded length

  def with_dependency_distance(self, distance: int) -> 'Corpus':
    """A copy of this task with `distance` as its maximum sentence length, in tokens."""
    return dataclasses.replace(self, max_length=distance)

  def extrapolation_task(self, dependency_distance: int) -> 'Corpus':
    """A copy of this task with only sentences longer than the original maximum length."""
    return dataclasses.replace(
      self, min_length=self.max_length, max_length=dependency_distance
    )

  def num_batches(self, split: str, batch_size: int) -> int:
    """The number of batches per epoch, which contains each pair within the length limits once."""
    return _buckets_of_split(self, split, batch_size).count

  def batch_shape(self, split: str, index: int, batch_size: int) -> BatchShape:
    """The shape of a batch, determined without loading its sentence pairs.

    Args:
      split: 'train', 'validation' or 'test'.
      index: the number of the batch within the split.
      batch_size: the number of rows, used only if `batch_tokens` is 0.

    Returns:
      The number of rows of the batch and the tokens per row.

    """
    return _buckets_of_split(self, split, batch_size).batch(index)[0]

  def batch(self, split: str, index, batch_size: int) -> Batch:
    """A batch of tokenised sentence pairs as NumPy arrays.

    The number of rows is `batch_size` if the option `batch_tokens` is 0. Otherwise, each batch has
    about `batch_tokens` source tokens.
    """
    num_rows, length = self.batch_shape(split, index, batch_size)
    examples = self._sentence_pair_indices(split, index, batch_size)
    source, target = self.prepared_corpus.splits[split].padded_batch(examples, num_rows, length)
    return self.make_batch(source, target)

  def sentence_pairs_of_test_batch(self, index: int, batch_size: int) -> list[tuple[str, str]]:
    """The original sentence pairs of a batch of the test split."""
    sentences = self.prepared_corpus.test_sentences
    return [sentences[i] for i in self._sentence_pair_indices('test', index, batch_size)]

  def count_excluded_test_pairs(self, num_batches: int, batch_size: int) -> dict[str, int]:
    """The number of test pairs excluded from the evaluation, by reason, such as their length."""
    lengths = self.prepared_corpus.splits['test'].lengths
    empty, longer = lengths.min(1) <= EMPTY, lengths.max(1)
    tested = [self._sentence_pair_indices('test', i, batch_size)
              for i in range(min(num_batches, self.num_batches('test', batch_size)))]
    counts = {
      'with an empty sentence': empty.sum(),
      f'of more than {self.max_length} tokens': (~empty & (longer > self.max_length)).sum(),
      f'of {self.min_length} tokens or fewer': (~empty & (longer <= self.min_length)).sum(),
      'in later batches': len(_pairs_within_length_limits(self, 'test')[0]) - sum(map(len, tested)),
    }
    return {reason: int(count) for reason, count in counts.items() if count}

  def _sentence_pair_indices(self, split: str, batch_index: int, batch_size: int) -> np.ndarray:
    """The indices, within a split, of the sentence pairs of a batch."""
    _, rows = _buckets_of_split(self, split, batch_size).batch(batch_index)
    return _pairs_within_length_limits(self, split)[0][rows]

  def detokenize(self, tokens) -> str:
    return self.prepared_corpus.vocabulary.decode(tokens)

  def tokenize(self, text: str) -> list[int]:
    return self.prepared_corpus.vocabulary.encode([text])[0]

  def oracle_outputs(self, source: jax.Array) -> jax.Array:
    """Always raises a TypeError, because a source sentence does not determine its translation."""
    raise TypeError(f'{self.title}: there is no oracle, because a source does not determine its'
                    f' translation')

  def baseline_outputs(self, source: jax.Array) -> jax.Array:
    """Logits that predict an empty target sentence for every source sentence.

    The prediction is never an exact match, because no target sentence in a batch is empty.
    """
    return one_hot_logits(jnp.full(source.shape, END), self.vocabulary_size)


@functools.cache
def _pairs_within_length_limits(task: Corpus, split: str) -> tuple[np.ndarray, np.ndarray]:
  """Indices of pairs within the length limits, and the length of the longer sentence of each."""
  lengths = task.prepared_corpus.splits[split].lengths
  shorter, longer = lengths.min(1), lengths.max(1)
  eligible = np.flatnonzero(
    (shorter > EMPTY) & (task.min_length < longer) & (longer <= task.max_length)
  )
  return eligible, longer[eligible]


@functools.cache
def _batch_shapes(task: Corpus, batch_size: int) -> tuple[BatchShape, ...]:
  """The shapes of the batches of a task, one for each bucket of sentence lengths.

  All splits share the same batch shapes, which limits the number of compilations.
  """
  # The test split is checked before training starts, because every training run ends with a test.
  _require_pairs_within_length_limits(task, 'test')
  lengths = np.concatenate([_pairs_within_length_limits(task, split)[1] for split in SPLITS])
  return batch_shapes(lengths, task.batch_tokens, batch_size)


@functools.cache
def _buckets_of_split(task: Corpus, split: str, batch_size: int) -> Buckets:
  """Divides the sentence pairs of a split into batches of similar sentence length."""
  _require_pairs_within_length_limits(task, split)
  if split == 'train':  # training needs validation batches too
    _require_pairs_within_length_limits(task, 'validation')
  _, lengths = _pairs_within_length_limits(task, split)
  return Buckets(lengths, _batch_shapes(task, batch_size), SPLITS.index(split))


def _require_pairs_within_length_limits(task: Corpus, split: str) -> None:
  """Raises a CorpusError if a split has no pair within the length limits."""
  if not _pairs_within_length_limits(task, split)[0].size:
    raise CorpusError(f'{task.dataset} has no pair of {task.min_length + 1} to {task.max_length}'
                      f' tokens in its {split} split')
