"""Subword tokens: words in pieces that are learnt from text, so that no word is unknown.

Byte-pair encoding begins with single characters and merges, again and again, the pair of
neighbouring pieces that is most frequent in the text, until the vocabulary has the size asked for.
Source and target share one, as in "Attention is all you need", section 5.1: what is spelled alike
in both languages is the same token.

Sennrich, Haddow and Birch 2016, "Neural machine translation of rare words with subword units",
section 3.2; Kudo and Richardson 2018, "SentencePiece", whose library learns and applies it.
"""

import dataclasses
import functools
import hashlib
import io
import os
import pathlib
from collections.abc import Iterable, Sequence

from experiments import extra
from experiments.corpora.reserved import END, PAD, RESERVED, START

UNKNOWN = RESERVED  # a character that the training text does not have
ERRORS_ONLY = 2  # the library's level of logging


class DamagedVocabulary(ValueError):
  """A file that is not what `save` wrote; the message names it."""


def library():
  """SentencePiece, of the extra `translation`."""
  return extra.load('sentencepiece', 'subword vocabularies', 'translation')


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """Pieces of words as tokens: PAD, START, END, UNKNOWN, then what was learnt.

  The model is SentencePiece's, serialised; two vocabularies are equal when their bytes are.
  """

  model: bytes

  @classmethod
  def train(
    cls, lines: Iterable[str], size: int, *, split_digits: bool = False, coverage: float = 1.0,
    threads: int = 1,
  ) -> 'Vocabulary':
    """Learn `size` tokens from lines of text; the same lines in the same order, the same tokens.

    With `split_digits` every digit is a token of its own. `coverage` is the share of the text
    whose characters are all known: 1 for those of a small alphabet. ValueError for a size that
    the text cannot fill, or that has no room for its characters.
    """
    written = io.BytesIO()
    try:
      library().SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=written, vocab_size=size, model_type='bpe',
        pad_id=PAD, bos_id=START, eos_id=END, unk_id=UNKNOWN, character_coverage=coverage,
        split_digits=split_digits, normalization_rule_name='identity', num_threads=threads,
        minloglevel=ERRORS_ONLY,
      )
    except RuntimeError as error:  # it names the bound, after the place in its own source
      reason = ' '.join(str(error).split()).rpartition('] ')[2]
      raise ValueError(f'vocabulary_size={size} does not suit the text: {reason}') from None
    return cls(written.getvalue())

  @functools.cached_property
  def processor(self):
    """The library's form of the model."""
    return library().SentencePieceProcessor(model_proto=self.model)

  @property
  def size(self) -> int:
    """Different tokens."""
    return self.processor.vocab_size()

  @property
  def digest(self) -> str:
    """Names the vocabulary: tokens compare only under the same digest."""
    return hashlib.sha256(self.model).hexdigest()[:12]

  def encode(self, lines: Sequence[str]) -> list[list[int]]:
    """The tokens of each line, closed by END."""
    return self.processor.encode(list(lines), add_eos=True)

  def decode(self, tokens: Sequence[int]) -> str:
    """The text that a row of tokens stands for, up to its first END."""
    row = [int(token) for token in tokens]
    return self.processor.decode(row[: row.index(END)] if END in row else row)

  def pieces(self, line: str) -> list[str]:
    """A line in the pieces that its tokens stand for, `▁` for a space."""
    return self.processor.encode(line, out_type=str)

  def save(self, path: str | os.PathLike) -> None:
    """Write the file at `path`, whole or not at all: a checksum, then the model."""
    path = pathlib.Path(path)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    temporary.write_bytes(checksum(self.model) + b'\n' + self.model)
    os.replace(temporary, path)

  @classmethod
  def load(cls, path: str | os.PathLike) -> 'Vocabulary':
    """Read what `save` wrote; OSError where there is no file, DamagedVocabulary for another."""
    stated, _, model = pathlib.Path(path).read_bytes().partition(b'\n')
    if stated != checksum(model):
      raise DamagedVocabulary(
        f'the vocabulary {path} is damaged: its checksum is not that of its content; delete it,'
        f' and it is made again'
      )
    return cls(model)


def checksum(model: bytes) -> bytes:
  """What a file states of the model in it."""
  return hashlib.sha256(model).hexdigest().encode()
