"""Subword tokens: words in pieces that are learnt from text, so that no word is unknown.

Byte-pair encoding begins with single characters and merges, again and again, the pair of
neighbouring pieces that is most frequent in the text, until the vocabulary has the size asked for.
Source and target share one, as in "Attention is all you need", section 5.1: what is spelled alike
in both languages is the same token.

White space is read as written here: any run of it (spaces, tabs, no-break spaces, ends of lines) is
one space, and at the ends of a line none. Nothing else is changed, so that a line is either read
back or has the token UNKNOWN in it, which stands for characters that the training text lacks:

  decode(encode(line)) = spaced(line)   or   UNKNOWN in encode(line)

Sennrich, Haddow and Birch 2016, "Neural machine translation of rare words with subword units",
section 3.2; Kudo and Richardson 2018, "SentencePiece", whose library learns and applies it.
"""

import dataclasses
import functools
import hashlib
import io
import os
import pathlib
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from experiments.lab import optional
from experiments.lab.corpora.reserved import END, PAD, RESERVED, START

UNKNOWN = RESERVED  # a character that the training text does not have
ERRORS_ONLY = 2  # the library's level of logging
# SentencePiece takes the first for a space, and leaves out of training what has one of the others.
# Unicode reserves noncharacters for such uses within a program: no text has them.
STAND_INS = {'▁': '\ufdd0', '▅': '\ufdd1', '\0': '\ufdd2'}
MARKERS = '<pad>', '<s>', '</s>', '<unk>'  # removed from training text by SentencePiece
LONGEST = 4192  # bytes; SentencePiece leaves longer lines out of training


class DamagedVocabulary(ValueError):
  """A file that is not what `save` wrote; the message names it."""


def library():
  """SentencePiece, of the extra `translation`."""
  return optional.load('sentencepiece', 'subword vocabularies', 'translation')


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

    Args:
      lines: the text, of which nothing is left out, however long a line is.
      size: how many tokens, those with a meaning of their own included.
      split_digits: whether every digit is a token of its own.
      coverage: the share of the text whose characters are all known; 1: every character is.
      threads: how many the library uses.

    Raises:
      ValueError: for a size that the text cannot fill, or that has no room for its characters.

    """
    written = io.BytesIO()
    try:
      library().SentencePieceTrainer.train(
        sentence_iterator=_portions(lines), model_writer=written, vocab_size=size, model_type='bpe',
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
    return self.processor.encode([_escaped(line) for line in lines], add_eos=True)

  def decode(self, tokens: Sequence[int]) -> str:
    """The text that a row of tokens stands for, up to its first END."""
    row = [int(token) for token in tokens]
    text = self.processor.decode(row[: row.index(END)] if END in row else row)
    for character, stand_in in STAND_INS.items():
      text = text.replace(stand_in, character)
    return text

  def pieces(self, line: str) -> list[str]:
    """A line in the pieces that its tokens stand for, `▁` for a space."""
    return self.processor.encode(_escaped(line), out_type=str)

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


def spaced(text: str) -> str:
  """A text with one space for each run of white space, and none at its ends."""
  return ' '.join(text.split())


def _escaped(line: str) -> str:
  """A line as the library is given it."""
  line = spaced(line)
  for character, stand_in in STAND_INS.items():
    line = line.replace(character, stand_in)
  return line


def _portions(lines: Iterable[str]) -> Iterator[str]:
  """Lines as the library learns from them: in portions of which it leaves nothing out."""
  for line in map(_escaped, lines):
    for marker in MARKERS:
      line = line.replace(marker, ' '.join(marker))
    if len(line.encode()) <= LONGEST:
      yield line
    else:  # cut between words, where no piece reaches across; a character has four bytes at most
      yield from textwrap.wrap(line, LONGEST // 4, break_on_hyphens=False)


def checksum(model: bytes) -> bytes:
  """What a file states of the model in it."""
  return hashlib.sha256(model).hexdigest().encode()
