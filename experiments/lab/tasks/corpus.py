"""Real translation: any set of pairs that TensorFlow Datasets knows, read from the host.

Batches have the shapes of a few buckets of like length and about as many tokens each, not as many
rows (`buckets`); they are made on the host from a mapped file (`reader`) and cannot be drawn
inside a compiled step: `streams` says so. They are a pure function of their index all the same, so
that the position of a reader is one number, and going on from it is reading on.

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
from experiments.lab.corpora.buckets import Buckets, Shape, shapes_of
from experiments.lab.corpora.reader import CorpusError, Data
from experiments.lab.corpora.reserved import END
from experiments.lab.corpora.vocabulary import UNKNOWN
from experiments.lab.tasks.task import SPLITS, Batch, certain
from experiments.lab.tasks.transduction import Transduction

EMPTY = 1  # tokens of an empty sentence: its END


@dataclasses.dataclass(frozen=True)
class Corpus(Transduction):
  """Translate sentences of a set: pairs whose longer side has min_length + 1 to max_length tokens.

  Nobody knows the translation from the source alone: there is no oracle, and a guess is never
  right. Rows left over in the last batch of a bucket are empty and have no weight.

  Answers in words are judged by the set's own sentences, not by what the vocabulary keeps of them.
  A pair with an empty side, or of other lengths than asked for, is in no batch; `left_out` counts
  such pairs of the test split.
  """

  dataset: str = 'wmt14_translate/de-en'
  source: str = 'en'
  target: str = 'de'
  vocabulary_size: int = 37000
  batch_tokens: int = 25000  # of sources, and of targets; 0: as many as are in a batch's rows
  max_length: int = 256
  min_length: int = 0

  family: ClassVar[str] = 'corpus'
  axis: ClassVar[str] = 'tokens'
  streams: ClassVar[bool] = True
  chance: ClassVar[float] = 0.0
  unknown: ClassVar[int] = UNKNOWN

  def __post_init__(self):
    if self.source == self.target:
      raise ValueError(f'source={self.source}: a corpus is translated into another language')
    if self.vocabulary_size <= UNKNOWN + 1:
      raise ValueError(
        f'vocabulary_size={self.vocabulary_size}: a corpus needs a token for each character'
      )
    if self.batch_tokens < 0:
      raise ValueError(f'batch_tokens={self.batch_tokens}: a batch has 0 tokens or more')
    if not 0 <= self.min_length < self.max_length:
      raise ValueError(f'min_length={self.min_length}: it is from 0 to below max_length='
                       f'{self.max_length}')

  @property
  def data(self) -> Data:
    """What is read, prepared at first and then kept open."""
    return reader.read(self.dataset, self.source, self.target, self.vocabulary_size)

  @property
  def digest(self) -> str:
    """Names the vocabulary and all pairs."""
    return self.data.digest

  @property
  def title(self) -> str:
    """The languages and the set."""
    return f'{self.dataset}, {self.source} to {self.target}'

  @property
  def distance(self) -> int:
    """Tokens of the longest sentence."""
    return self.max_length

  @property
  def source_length(self) -> int:
    """Room for the longest batch."""
    return _shapes(self, 1)[-1].tokens

  target_length = source_length  # buckets are square

  def at(self, distance: int) -> 'Corpus':
    """Sentences of up to another length."""
    return dataclasses.replace(self, max_length=distance)

  def beyond(self, distance: int) -> 'Corpus':
    """Only sentences that are longer than this task's."""
    return dataclasses.replace(self, min_length=self.max_length, max_length=distance)

  def batches(self, split: str, batch_size: int) -> int:
    """How many batches an epoch has: so many in a row read every pair once."""
    return _buckets(self, split, batch_size).count

  def shape(self, split: str, index: int, batch_size: int) -> Shape:
    """The shape of a batch, without reading it."""
    return _buckets(self, split, batch_size).batch(index)[0]

  def batch(self, split: str, index, batch_size: int) -> Batch:
    """Arrays of the host; `batch_size` counts only where `batch_tokens` is 0."""
    rows, room = self.shape(split, index, batch_size)
    examples = self._examples(split, index, batch_size)
    source, target = self.data.splits[split].rows(examples, rows, room)
    return self.sealed(source, target)

  def test_sentences(self, index: int, batch_size: int) -> list[tuple[str, str]]:
    """The set's own sentences."""
    return [self.data.sentences[row] for row in self._examples('test', index, batch_size)]

  def left_out(self, batches: int, batch_size: int) -> dict[str, int]:
    """Pairs that the task does not ask for, and those of batches that come later."""
    lengths = self.data.splits['test'].lengths
    empty, longer = lengths.min(1) <= EMPTY, lengths.max(1)
    read = [self._examples('test', i, batch_size)
            for i in range(min(batches, self.batches('test', batch_size)))]
    counts = {
      'with an empty side': empty.sum(),
      f'of more than {self.max_length} tokens': (~empty & (longer > self.max_length)).sum(),
      f'of {self.min_length} tokens or fewer': (~empty & (longer <= self.min_length)).sum(),
      'in later batches': len(_asked(self, 'test')[0]) - sum(map(len, read)),
    }
    return {reason: int(count) for reason, count in counts.items() if count}

  def _examples(self, split: str, index: int, batch_size: int) -> np.ndarray:
    """Which pairs of a split are in a batch."""
    return _asked(self, split)[0][_buckets(self, split, batch_size).batch(index)[1]]

  def text(self, tokens) -> str:
    """The sentence that a row of tokens stands for, up to its END."""
    return self.data.vocabulary.decode(tokens)

  def tokens(self, text: str) -> list[int]:
    """The pieces of a sentence."""
    return self.data.vocabulary.encode([text])[0]

  def oracle(self, source: jax.Array) -> jax.Array:
    """There is none."""
    raise TypeError(f'{self.title}: nobody knows the translation from the source alone')

  def baseline(self, source: jax.Array) -> jax.Array:
    """The empty sentence, which is as good as any."""
    return certain(jnp.full(source.shape, END), self.vocabulary_size)


@functools.cache
def _asked(task: Corpus, split: str) -> tuple[np.ndarray, np.ndarray]:
  """The pairs of a split that a task asks for, and the lengths of their longer sides."""
  lengths = task.data.splits[split].lengths
  shorter, longer = lengths.min(1), lengths.max(1)
  asked = np.flatnonzero(
    (shorter > EMPTY) & (task.min_length < longer) & (longer <= task.max_length)
  )
  return asked, longer[asked]


@functools.cache
def _shapes(task: Corpus, batch_size: int) -> tuple[Shape, ...]:
  """The shapes of all splits' batches: one program serves them all."""
  _check(task, 'test')  # whatever a task is for, it is tested: said before anything is trained
  lengths = np.concatenate([_asked(task, split)[1] for split in SPLITS])
  return shapes_of(lengths, task.batch_tokens, batch_size)


@functools.cache
def _buckets(task: Corpus, split: str, batch_size: int) -> Buckets:
  """The batches of a split."""
  _check(task, split)
  if split == 'train':  # which is of no use without the other
    _check(task, 'validation')
  return Buckets(_asked(task, split)[1], _shapes(task, batch_size), SPLITS.index(split))


def _check(task: Corpus, split: str) -> None:
  """CorpusError where a split has no pair that the task asks for."""
  if not _asked(task, split)[0].size:
    raise CorpusError(f'{task.dataset} has no pair of {task.min_length + 1} to {task.max_length}'
                      f' tokens in its {split} split')
