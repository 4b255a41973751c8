"""Tokenised translation data sets in memory-mapped files.

The preparation takes minutes for millions of pairs. The data set is downloaded, a vocabulary is
trained on both languages of its training split, and all pairs are encoded and stored in

  <data>/sequence-lab/<name>/<source>-<target>-<size>/
    vocabulary.model      the vocabulary
    <split>.tokens        source and target of each pair, concatenated, each followed by END
    <split>.lengths.npy   [pairs, 2] the numbers of these tokens
    test.jsonl            the original pairs of the test split, one per line
    manifest.json         the SHA-256 of each file, written last

A batch is then a gather from a memory-mapped file, which needs no data set library. The files
contain all pairs. The task excludes pairs that are too long or have an empty sentence. <data> is
the folder of TensorFlow Datasets, which is $TFDS_DATA_DIR or ~/tensorflow_datasets.

Generated text is scored against test.jsonl, because a reference must not pass through a vocabulary
that may lose characters.
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
from experiments.lab.corpora import datasets
from experiments.lab.corpora.datasets import CorpusError
from experiments.lab.corpora.reserved import END, PAD, SPLITS
from experiments.lab.corpora.vocabulary import Vocabulary

SAMPLED = 1_000_000  # greatest number of pairs that a vocabulary is trained on
CHUNK = 4096  # pairs that are encoded at once
MODEL = 'vocabulary.model'
SENTENCES = 'test.jsonl'


class EncodedPairs(NamedTuple):
  """The N tokenised sentence pairs of a split."""

  tokens: np.ndarray  # all tokens in one memory-mapped array: source, target, the next source, ...
  lengths: np.ndarray  # [N, 2] numbers of tokens of source and target, including END
  starts: np.ndarray  # [N, 2] offsets of source and target in `tokens`

  def padded_batch(self, examples: np.ndarray, num_rows: int, length: int) -> np.ndarray:
    """The sources and targets of the given sentence pairs, padded to a given shape.

    Args:
      examples: indices of at most `num_rows` pairs.
      num_rows: number of rows of the batch.
      length: number of tokens per row, at least that of the longest example.

    Returns:
      Sources and targets as int32 [2, num_rows, length]. In rows beyond the examples, the source is
      an empty sentence and the target is padding.

    """
    offset = np.arange(length)
    batch = np.full((2, num_rows, length), PAD, np.int32)
    batch[0, :, 0] = END  # attention to a source without valid tokens would be 0 / 0
    for side in range(2):
      start, count = self.starts[examples, side, None], self.lengths[examples, side, None]
      tokens = self.tokens[np.minimum(start + offset, self.tokens.size - 1)]
      batch[side, : len(examples)] = np.where(offset < count, tokens, PAD)
    return batch


class PreparedCorpus(NamedTuple):
  """A tokenised data set with its vocabulary."""

  vocabulary: Vocabulary
  splits: dict[str, EncodedPairs]
  test_sentences: list[tuple[str, str]]  # the original pairs of the test split
  digest: str  # hash of all files


def load_corpus(
  name: str, source_language: str, target_language: str, vocabulary_size: int
) -> PreparedCorpus:
  """Loads a tokenised data set, and prepares it first if necessary.

  One process prepares the data set while other processes wait.

  Args:
    name: name in TensorFlow Datasets, with optional configuration and version.
    source_language: language code of the sources, as in the data set.
    target_language: language code of the targets, as in the data set.
    vocabulary_size: number of tokens of the shared vocabulary.

  Returns:
    The memory-mapped corpus, which is cached in memory.

  Raises:
    CorpusError: if the data set cannot be obtained, prepared or read.

  """
  folder = pathlib.Path(os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets').expanduser()
  return _open_or_prepare_corpus(folder, name, source_language, target_language, vocabulary_size)


@functools.cache
def _open_or_prepare_corpus(
  data_folder: pathlib.Path, name: str, source_language: str, target_language: str,
  vocabulary_size: int,
) -> PreparedCorpus:
  parent = data_folder / 'sequence-lab' / name.replace('/', '-').replace(':', '-')
  folder = parent / f'{source_language}-{target_language}-{vocabulary_size}'
  languages = source_language, target_language
  if not folder.exists():
    builder = datasets.find_dataset_builder(data_folder, name, languages)
    try:
      with _exclusive_lock(parent, name):
        if not folder.exists():  # another process may have prepared it during the wait
          _prepare_corpus(folder, builder, languages, vocabulary_size)
    except sealed_folder.DataError:
      raise
    except OSError as error:  # no space, or no permission to write
      raise CorpusError(f'{name} cannot be prepared in {data_folder}: {error}') from None
  problem = sealed_folder.describe_difference_from_manifest(folder)
  if not problem and not (folder / SENTENCES).exists():
    problem = 'was prepared by an earlier version of this program'
  if problem:
    raise CorpusError(f'{folder} {problem}: delete this folder, and it is created again')
  splits = {split: _open_split(folder, split, vocabulary_size) for split in SPLITS}
  with open(folder / SENTENCES, encoding='utf-8') as file:
    sentences = [tuple(json.loads(line)) for line in file]
  vocabulary = Vocabulary.load(folder / MODEL)
  return PreparedCorpus(vocabulary, splits, sentences, sealed_folder.folder_digest(folder))


def _open_split(folder: pathlib.Path, split: str, vocabulary_size: int) -> EncodedPairs:
  lengths = np.load(folder / f'{split}.lengths.npy', allow_pickle=False)
  ends = np.cumsum(lengths, dtype=np.int64).reshape(lengths.shape)
  tokens = np.memmap(folder / f'{split}.tokens', _token_dtype(vocabulary_size), 'r')
  return EncodedPairs(tokens, lengths, ends - lengths)


def _token_dtype(vocabulary_size: int) -> str:
  """The smallest unsigned integer type that stores all tokens of a vocabulary."""
  return '<u2' if vocabulary_size <= 2**16 else '<u4'


@contextlib.contextmanager
def _exclusive_lock(folder: pathlib.Path, corpus_name: str) -> Iterator[None]:
  """Holds an exclusive file lock, which is released even if this process is killed."""
  folder.mkdir(parents=True, exist_ok=True)
  with open(folder / '.lock', 'a') as lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      logging.warning('%s is being prepared by another process; waiting for it', corpus_name)
      fcntl.flock(lock, fcntl.LOCK_EX)
    yield


def _prepare_corpus(
  folder: pathlib.Path, builder, languages: tuple[str, str], vocabulary_size: int
) -> None:
  """Creates the folder of a corpus under a temporary name, and renames it when it is complete."""
  splits = datasets.read_splits(builder, languages)
  draft = folder.with_name(f'{folder.name}.incomplete')
  shutil.rmtree(draft, ignore_errors=True)  # from a killed process
  draft.mkdir()
  train = splits['train']
  sampled_pairs = train.iterate_sentence_pairs(-(-len(train) // SAMPLED))
  lines = (sentence for pair in sampled_pairs for sentence in pair)
  try:
    vocabulary = Vocabulary.train(lines, vocabulary_size)
  except ValueError as error:
    raise CorpusError(f'{builder.info.full_name}: {error}') from None
  vocabulary.save(draft / MODEL)
  for split, sentences in splits.items():
    pairs = sentences.iterate_sentence_pairs()
    if split == 'test':
      pairs = _yield_and_save_pairs(draft / SENTENCES, pairs)
    if not _write_encoded_pairs(draft, split, pairs, vocabulary, _token_dtype(vocabulary_size)):
      raise CorpusError(f'{builder.info.full_name} has no pairs for {split}')
  sealed_folder.write_manifest(draft)
  draft.rename(folder)


def _yield_and_save_pairs(
  path: pathlib.Path, pairs: Iterable[tuple[str, str]]
) -> Iterator[tuple[str, str]]:
  """Yields sentence pairs unchanged and also saves them to a file."""
  with open(path, 'w', encoding='utf-8') as file:
    for pair in pairs:
      file.write(json.dumps(pair) + '\n')
      yield pair


def _write_encoded_pairs(
  folder, split: str, pairs: Iterator, vocabulary: Vocabulary, dtype: str
) -> int:
  """Stores the tokens and lengths of all pairs of a split, and returns the number of pairs."""
  lengths = array.array('i')
  with open(folder / f'{split}.tokens', 'wb') as file:
    while chunk := list(itertools.islice(pairs, CHUNK)):
      encoded = vocabulary.encode([side for pair in chunk for side in pair])
      lengths.extend(map(len, encoded))
      np.fromiter(itertools.chain.from_iterable(encoded), dtype).tofile(file)
  table = np.array(lengths, np.int32).reshape(-1, 2)
  np.save(folder / f'{split}.lengths.npy', table, allow_pickle=False)
  return len(table)
