"""The sentence pairs of translation data sets of TensorFlow Datasets, read without TensorFlow.

Any data set is supported whose features are a `Translation` of two or more languages. It is stored
in the format array_record, because the other formats need TensorFlow or lose examples.

If a data set has no validation or test split, a hash of each pair assigns one training pair in a
hundred to the missing split. Copies of a pair are therefore in the same split, even if they differ
in white space.

Sentences are returned unchanged.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import pathlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from experiments.lab import optional, sealed_folder
from experiments.lab.corpora.network import unreachable_hosts_that_prevent_download
from experiments.lab.corpora.reserved import SPLITS
from experiments.lab.corpora.vocabulary import normalize_whitespace

CHUNK = 4096  # pairs that are read at once
EXTRA = ('translation data sets', 'translation')
HELD_OUT = {0: 'validation', 1: 'test'}  # hash of a pair modulo 100 -> split; others: train


class CorpusError(sealed_folder.DataError):
  """Raised when a corpus cannot be downloaded, prepared or read.

  The message is a single line.
  """


def split_of_sentence_pair(pair: tuple[str, str]) -> str:
  """Assigns a sentence pair to a split by its hash.

  It is used if a data set lacks a validation or test split.
  """
  text = '\0'.join(map(normalize_whitespace, pair)).encode()
  return HELD_OUT.get(int.from_bytes(hashlib.sha256(text).digest(), 'big') % 100, 'train')


@dataclasses.dataclass(frozen=True)
class SentencePairs:
  """The sentence pairs of one split, which are read from disk during iteration."""

  examples: Sequence[Any]  # dicts from language to sentence
  languages: tuple[str, str]  # of the source and of the target
  splits: frozenset[str] | None  # include only pairs that the hash assigns to these; None: all

  def __len__(self) -> int:
    return len(self.examples)

  def iterate_sentence_pairs(self, index_stride: int = 1) -> Iterator[tuple[str, str]]:
    """Yields the sentence pair of every `index_stride`-th example that belongs to the split."""
    for first in range(0, len(self.examples), CHUNK * index_stride):
      last = min(first + CHUNK * index_stride, len(self.examples))
      indices = range(first, last, index_stride)
      for example in self.examples.__getitems__(list(indices)):
        pair = tuple(_decode_utf8(example[language]) for language in self.languages)
        if self.splits is None or split_of_sentence_pair(pair) in self.splits:
          yield pair


def find_dataset_builder(data_folder: pathlib.Path, name: str, languages: tuple[str, str]):
  """The TensorFlow Datasets builder that downloads and reads a translation data set.

  Args:
    data_folder: the folder of all data sets.
    name: the name of the data set, with optional configuration and version.
    languages: the languages that it must have.

  Returns:
    A `tfds.core.DatasetBuilder`, whose data set is not necessarily downloaded yet.

  Raises:
    CorpusError: if there is no such data set, or if it lacks a language.

  """
  builder = _load_dataset_builder(data_folder, name)
  available = getattr(builder.info.features, 'languages', None)
  if not available or set(available) != set(builder.info.features):
    raise CorpusError(f'{name} is not a translation data set: its features are'
                      f' {", ".join(builder.info.features)}')
  for language in languages:
    if language not in available:
      raise CorpusError(f'{name} has no language {language!r}: its languages are'
                        f' {", ".join(available)}')
  return builder


def read_splits(builder, languages: tuple[str, str]) -> dict[str, SentencePairs]:
  """Reads the train, validation and test splits of a data set, and downloads it if necessary.

  Raises:
    CorpusError: if the download fails, or if the data set has no training split.

  """
  _download_dataset(builder)
  examples = {
    split: _load_examples(builder, split) for split in SPLITS if split in builder.info.splits
  }
  if 'train' not in examples:
    raise CorpusError(f'{builder.info.full_name} has no training split, only'
                      f' {", ".join(builder.info.splits)}')
  missing = frozenset(SPLITS) - frozenset(examples)
  included = {split: frozenset({split}) for split in missing}
  if missing:
    included['train'] = frozenset(examples)
  return {
    split: SentencePairs(examples.get(split, examples['train']), languages, included.get(split))
    for split in SPLITS
  }


def _decode_utf8(sentence: bytes | str) -> str:
  try:
    return sentence.decode() if isinstance(sentence, bytes) else sentence
  except UnicodeDecodeError:
    raise CorpusError(f'the data set has a sentence that is not UTF-8: {sentence[:60]!r}') from None


def _load_dataset_builder(data_folder: pathlib.Path, name: str):
  """Loads the builder of a data set, and raises a CorpusError if the data set is not supported."""
  tfds = optional.import_optional('tensorflow_datasets', *EXTRA)
  optional.import_optional('tensorflow_datasets.translate', *EXTRA)  # registers the data sets
  optional.import_optional('array_record.python.array_record_data_source', *EXTRA)
  base, _, config = name.partition(':')[0].partition('/')
  try:
    configs = tfds.builder_cls(base).builder_configs
    if config and configs and config not in configs:
      raise CorpusError(f'{base} has no configuration {config!r}: it has {", ".join(configs)}')
    return tfds.builder(name, data_dir=data_folder, file_format='array_record')
  except tfds.core.registered.DatasetNotFoundError:
    names = tfds.list_builders(with_community_datasets=False)
    similar = difflib.get_close_matches(base, names)
    hint = f'; did you mean {" or ".join(similar)}?' if similar else ''
    raise CorpusError(f'TensorFlow Datasets has no data set {name!r}{hint}') from None
  except (ValueError, TypeError, AssertionError, AttributeError) as error:
    raise CorpusError(f'TensorFlow Datasets cannot read {name!r}: {_format_error(error)}') from None


def _download_dataset(builder) -> None:
  """Downloads a data set unless its folder exists.

  The caller must hold the exclusive lock.
  """
  folder, name = pathlib.Path(builder.data_dir), builder.info.full_name
  if folder.exists():
    return
  if hosts := unreachable_hosts_that_prevent_download(builder.url_infos or ()):
    raise CorpusError(f'{name} is not in {folder}, and there is no network to download it:'
                      f' no connection to {", ".join(hosts)}')
  for incomplete in folder.parent.glob(f'incomplete.*_{folder.name}'):  # from a killed process
    shutil.rmtree(incomplete, ignore_errors=True)
  if not sys.stderr.isatty():
    optional.import_optional('tensorflow_datasets', *EXTRA).disable_progress_bar()
  try:
    with contextlib.redirect_stdout(sys.stderr):
      builder.download_and_prepare()
  except Exception as error:  # the code of a data set may raise any exception
    raise CorpusError(f'{name} cannot be prepared: {_format_error(error)}') from error


def _load_examples(builder, split: str) -> Sequence[Any]:
  """Loads the examples of a split, and raises a CorpusError if the number of examples is wrong."""
  examples, expected = builder.as_data_source(split), builder.info.splits[split].num_examples
  if len(examples) != expected:
    raise CorpusError(f'{builder.info.full_name} is damaged: its {split} split has {len(examples)}'
                      f' examples, not {expected}; delete {builder.data_dir}')
  return examples


def _format_error(error: Exception) -> str:
  """The type and the message of an error, in one line."""
  return f'{type(error).__name__}: {" ".join(str(error).split())}'[:300]
