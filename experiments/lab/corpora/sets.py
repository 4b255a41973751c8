"""The sentence pairs of a translation set of TensorFlow Datasets, read without TensorFlow.

Any set will do whose features are a `Translation` of two languages or more. Its format on the disk
is array_record: the others need TensorFlow, or lose rows.

A set without a validation or a test split has it dealt from its training split, one pair in a
hundred, by a hash of the pair: a pair that is there twice is in one split only, also where its two
copies differ in white space.

Sentences are returned exactly as they stand in the set.
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
from experiments.lab.corpora.network import unreachable
from experiments.lab.corpora.reserved import SPLITS
from experiments.lab.corpora.vocabulary import spaced

CHUNK = 4096  # pairs read at a time
EXTRA = ('translation sets', 'translation')
DEALT = {0: 'validation', 1: 'test'}  # by the hash of a pair modulo 100; the rest: train


class CorpusError(sealed_folder.DataError):
  """A corpus that cannot be had or read; the message is one line, for users."""


def split_of(pair: tuple[str, str]) -> str:
  """The split that a pair is dealt to where a set has one split only."""
  text = '\0'.join(map(spaced, pair)).encode()
  return DEALT.get(int.from_bytes(hashlib.sha256(text).digest(), 'big') % 100, 'train')


@dataclasses.dataclass(frozen=True)
class Sentences:
  """The pairs of one split."""

  source: Sequence[Any]  # each language's sentence, by its name
  languages: tuple[str, str]
  dealt: frozenset[str] | None  # of the pairs, only those dealt to these splits; None: all

  def __len__(self) -> int:
    return len(self.source)

  def pairs(self, step: int = 1) -> Iterator[tuple[str, str]]:
    """The pairs, or every `step`-th of them."""
    for first in range(0, len(self.source), CHUNK * step):
      places = range(first, min(first + CHUNK * step, len(self.source)), step)
      for example in self.source.__getitems__(list(places)):
        pair = tuple(_text(example[language]) for language in self.languages)
        if self.dealt is None or split_of(pair) in self.dealt:
          yield pair


def find(data: pathlib.Path, name: str, languages: tuple[str, str]):
  """What makes and reads a set, if there is one of that name and in these languages."""
  builder = _builder(data, name)
  known = getattr(builder.info.features, 'languages', None)
  if not known or set(known) != set(builder.info.features):
    raise CorpusError(f'{name} is no translation set: its features are'
                      f' {", ".join(builder.info.features)}')
  for language in languages:
    if language not in known:
      raise CorpusError(f'{name} has no {language!r}: its languages are {", ".join(known)}')
  return builder


def read(builder, languages: tuple[str, str]) -> dict[str, Sentences]:
  """The splits of a set in two of its languages; it is downloaded to its folder if need be."""
  _make(builder)
  own = {split: _source(builder, split) for split in SPLITS if split in builder.info.splits}
  if 'train' not in own:
    raise CorpusError(f'{builder.info.full_name} has no split to train on, only'
                      f' {", ".join(builder.info.splits)}')
  dealt = frozenset(SPLITS) - frozenset(own)
  takes = {split: frozenset({split}) for split in dealt}
  if dealt:
    takes['train'] = frozenset(own)
  return {
    split: Sentences(own.get(split, own['train']), languages, takes.get(split)) for split in SPLITS
  }


def _text(sentence: bytes | str) -> str:
  try:
    return sentence.decode() if isinstance(sentence, bytes) else sentence
  except UnicodeDecodeError:
    raise CorpusError(f'the set has a sentence that is not UTF-8: {sentence[:60]!r}') from None


def _builder(data: pathlib.Path, name: str):
  """What knows a set by its name."""
  tfds = optional.load('tensorflow_datasets', *EXTRA)
  optional.load('tensorflow_datasets.translate', *EXTRA)  # which makes their names known
  optional.load('array_record.python.array_record_data_source', *EXTRA)
  base, _, config = name.partition(':')[0].partition('/')
  try:
    configs = tfds.builder_cls(base).builder_configs
    if config and configs and config not in configs:
      raise CorpusError(f'{base} has no {config!r}: there is {", ".join(configs)}')
    return tfds.builder(name, data_dir=data, file_format='array_record')
  except tfds.core.registered.DatasetNotFoundError:
    known = tfds.list_builders(with_community_datasets=False)
    near = difflib.get_close_matches(base, known)
    hint = f'; did you mean {" or ".join(near)}?' if near else ''
    raise CorpusError(f'TensorFlow Datasets has no set {name!r}{hint}') from None
  except (ValueError, TypeError, AssertionError, AttributeError) as error:
    raise CorpusError(f'TensorFlow Datasets cannot read {name!r}: {_line(error)}') from None


def _make(builder) -> None:
  """Downloads a set that is not on the disk yet; the caller is alone in doing so."""
  place, name = pathlib.Path(builder.data_dir), builder.info.full_name
  if place.exists():
    return
  if hosts := unreachable(builder.url_infos or ()):
    raise CorpusError(f'{name} is not there ({place}), and there is no network to fetch it: no'
                      f' answer from {", ".join(hosts)}')
  for left in place.parent.glob(f'incomplete.*_{place.name}'):  # by a process that was killed
    shutil.rmtree(left, ignore_errors=True)
  if not sys.stderr.isatty():
    optional.load('tensorflow_datasets', *EXTRA).disable_progress_bar()
  try:
    with contextlib.redirect_stdout(sys.stderr):
      builder.download_and_prepare()
  except Exception as error:  # whatever a set's own code raises
    raise CorpusError(f'{name} cannot be prepared: {_line(error)}') from error


def _source(builder, split: str) -> Sequence[Any]:
  """The examples of a split, all of them."""
  source, expected = builder.as_data_source(split), builder.info.splits[split].num_examples
  if len(source) != expected:
    raise CorpusError(f'{builder.info.full_name} is damaged: its {split} split has {len(source)}'
                      f' examples, not {expected}; delete {builder.data_dir}')
  return source


def _line(error: Exception) -> str:
  """An error in one line."""
  return f'{type(error).__name__}: {" ".join(str(error).split())}'[:300]
