"""A translation set as tokens of one subword vocabulary: prepared once, then mapped from a file.

Preparing takes minutes for millions of pairs: the set is downloaded, a vocabulary is trained on
both sides of its training split, and every pair is encoded and counted.

  <data>/sequence-lab/<name>/<source>-<target>-<size>/
    vocabulary.model      the vocabulary
    <split>.tokens        each pair's source and target, one after another, END at the end of each
    <split>.lengths.npy   [pairs, 2] how many tokens these are
    test.jsonl            the test split's pairs exactly as they stand in the set, one a line
    manifest.json         the SHA-256 of each, written last

From then on a batch is a gather from a mapped file, and no library of data sets is needed. Every
pair of the set is there; what is too long or has an empty side is left out by the task. <data> is
where TensorFlow Datasets keeps its own: $TFDS_DATA_DIR, or else ~/tensorflow_datasets.

Answers are judged by test.jsonl. A reference does not pass through the vocabulary: a vocabulary
does not know every character.
"""

import array
import contextlib
import fcntl
import functools
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from absl import logging

from experiments.lab import sealed_folder
from experiments.lab.corpora import sets
from experiments.lab.corpora.reserved import END, PAD, SPLITS
from experiments.lab.corpora.sets import CorpusError
from experiments.lab.corpora.vocabulary import Vocabulary

SAMPLED = 1_000_000  # pairs that a vocabulary is trained on, at most
CHUNK = 4096  # pairs encoded at a time
MODEL = 'vocabulary.model'
SENTENCES = 'test.jsonl'


class Pairs(NamedTuple):
  """The pairs of a split as tokens."""

  tokens: np.ndarray  # [tokens of all] source, target, the next source, ...; mapped from a file
  lengths: np.ndarray  # [N, 2] of the source and of the target, each with its END
  starts: np.ndarray  # [N, 2] where these are in `tokens`

  def rows(self, examples: np.ndarray, rows: int, room: int) -> np.ndarray:
    """Sources and targets [2, rows, room] of some examples; rows left over are empty sentences."""
    place = np.arange(room)
    found = np.full((2, rows, room), PAD, np.int32)
    found[0, :, 0] = END  # attention over nothing at all would be 0 / 0
    for side in range(2):
      start, length = self.starts[examples, side, None], self.lengths[examples, side, None]
      taken = self.tokens[np.minimum(start + place, self.tokens.size - 1)]
      found[side, : len(examples)] = np.where(place < length, taken, PAD)
    return found


class Data(NamedTuple):
  """A prepared corpus."""

  vocabulary: Vocabulary
  splits: dict[str, Pairs]
  sentences: list[tuple[str, str]]  # the pairs of the test split, exactly as they stand in the set
  digest: str  # of all of it


def read(name: str, source: str, target: str, size: int) -> Data:
  """A corpus by its name in TensorFlow Datasets, its two languages and its vocabulary's size.

  It is prepared when it is not there yet, by one process while others wait.
  """
  folder = os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets'
  return _read(pathlib.Path(folder).expanduser(), name, source, target, size)


@functools.cache
def _read(data: pathlib.Path, name: str, source: str, target: str, size: int) -> Data:
  own = data / 'sequence-lab' / name.replace('/', '-').replace(':', '-')
  folder = own / f'{source}-{target}-{size}'
  if not folder.exists():
    builder = sets.find(data, name, (source, target))
    try:
      with _alone(own, name):
        if not folder.exists():  # another process may just have made it
          _prepare(folder, builder, (source, target), size)
    except sealed_folder.DataError:
      raise
    except OSError as error:  # no room, no right to write
      raise CorpusError(f'{name} cannot be prepared in {data}: {error}') from None
  wrong = sealed_folder.damage(folder)
  if not wrong and not (folder / SENTENCES).exists():
    wrong = 'was prepared by an earlier version of this program'
  if wrong:
    raise CorpusError(f'{folder} {wrong}: delete this folder, and it is made again')
  splits = {split: _pairs(folder, split, size) for split in SPLITS}
  with open(folder / SENTENCES, encoding='utf-8') as file:
    sentences = [tuple(json.loads(line)) for line in file]
  return Data(Vocabulary.load(folder / MODEL), splits, sentences, sealed_folder.digest(folder))


def _pairs(folder: pathlib.Path, split: str, size: int) -> Pairs:
  lengths = np.load(folder / f'{split}.lengths.npy', allow_pickle=False)
  ends = np.cumsum(lengths, dtype=np.int64).reshape(lengths.shape)
  tokens = np.memmap(folder / f'{split}.tokens', _kind(size), 'r')
  return Pairs(tokens, lengths, ends - lengths)


def _kind(size: int) -> str:
  """How a token is stored."""
  return '<u2' if size <= 2**16 else '<u4'


@contextlib.contextmanager
def _alone(folder: pathlib.Path, name: str) -> Iterator[None]:
  """One process at a time; the system gives the lock back when its holder is killed."""
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / '.lock', 'a') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      logging.warning('%s is being prepared by another process: waiting for it', name)
      fcntl.flock(lock, fcntl.LOCK_EX)
    yield


def _prepare(folder: pathlib.Path, builder, languages: tuple[str, str], size: int) -> None:
  """Makes a folder; it takes its name when it is whole."""
  splits = sets.read(builder, languages)
  draft = folder.with_name(f'{folder.name}.incomplete')
  shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed
  draft.mkdir()
  train = splits['train']
  lines = (side for pair in train.pairs(-(-len(train) // SAMPLED)) for side in pair)
  try:
    vocabulary = Vocabulary.train(lines, size)
  except ValueError as error:
    raise CorpusError(f'{builder.info.full_name}: {error}') from None
  vocabulary.save(draft / MODEL)
  for split, sentences in splits.items():
    pairs = sentences.pairs()
    if split == 'test':
      pairs = _copied(draft / SENTENCES, pairs)
    if not _encode(draft, split, pairs, vocabulary, _kind(size)):
      raise CorpusError(f'{builder.info.full_name} has no pairs for {split}')
  sealed_folder.seal(draft)
  draft.rename(folder)


def _copied(path: pathlib.Path, pairs: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
  """Pairs of sentences, each also written to a file."""
  with open(path, 'w', encoding='utf-8') as file:
    for pair in pairs:
      file.write(json.dumps(pair) + '\n')
      yield pair


def _encode(folder, split: str, pairs: Iterator, vocabulary: Vocabulary, kind: str) -> int:
  """Stores the tokens of a split and how many each pair has; returns how many pairs there are."""
  lengths = array.array('i')
  with open(folder / f'{split}.tokens', 'wb') as file:
    while chunk := list(itertools.islice(pairs, CHUNK)):
      encoded = vocabulary.encode([side for pair in chunk for side in pair])
      lengths.extend(map(len, encoded))
      np.fromiter(itertools.chain.from_iterable(encoded), kind).tofile(file)
  table = np.array(lengths, np.int32).reshape(-1, 2)
  np.save(folder / f'{split}.lengths.npy', table, allow_pickle=False)
  return len(table)
