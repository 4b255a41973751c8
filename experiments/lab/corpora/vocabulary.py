"""Subword vocabularies, which are learned from text by byte-pair encoding.

Byte-pair encoding begins with single characters and repeatedly merges the most frequent pair of
adjacent pieces, until the vocabulary has the requested size. Source and target share one
vocabulary, as in "Attention is all you need", section 5.1, so that equal spellings in both
languages have equal tokens.

White space is normalised. Each run of it (spaces, tabs, no-break spaces, ends of lines) becomes one
space, and none remains at the ends of a line. Nothing else changes, so that decoding restores a
line unless it has the token UNKNOWN, for characters that are not in the training text:

  decode(encode(line)) = normalize_whitespace(line)   or   UNKNOWN in encode(line)

Sennrich, Haddow and Birch 2016, "Neural machine translation of rare words with subword units",
section 3.2; Kudo and Richardson 2018, "SentencePiece", for the library that is used here.
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

UNKNOWN = RESERVED  # the token of all characters that are not in the training text
ERRORS_ONLY = 2  # logging level of SentencePiece
# SentencePiece represents a space by '▁', and drops training lines that contain '▅' or '\0'.
# The characters '▁', '▅' and '\0' are therefore replaced by Unicode noncharacters.
STAND_INS = {'▁': '\ufdd0', '▅': '\ufdd1', '\0': '\ufdd2'}
MARKERS = '<pad>', '<s>', '</s>', '<unk>'  # SentencePiece removes these from training text
LONGEST = 4192  # bytes; SentencePiece drops longer training lines


class DamagedVocabulary(ValueError):
  """Raised when the content of a vocabulary file does not match its checksum."""


def load_sentencepiece():
  """Imports the optional package sentencepiece, which the pip extra `translation` installs."""
  return optional.import_optional('sentencepiece', 'subword vocabularies', 'translation')


@dataclasses.dataclass(frozen=True)
class Vocabulary:
  """A subword vocabulary with the tokens PAD, START, END and UNKNOWN, followed by learned pieces.

  The model is a serialised SentencePiece model. Vocabularies are equal if their bytes are equal.
  """

  model: bytes

  @classmethod
  def train(
    cls, lines: Iterable[str], size: int, *, split_digits: bool = False, coverage: float = 1.0,
    threads: int = 1,
  ) -> 'Vocabulary':
    """Trains a subword vocabulary on lines of text.

    The same lines in the same order always give the same vocabulary.

    Args:
      lines: the training text, all of which is used, including long lines.
      size: the number of tokens, including the reserved tokens.
      split_digits: whether every digit is a separate token.
      coverage: the fraction of characters of the text that have tokens; 1 includes all of them.
      threads: the number of threads of the library.

    Returns:
      The trained vocabulary.

    Raises:
      ValueError: if the size is too great or too small for the text.

    """
    model = io.BytesIO()
    try:
      load_sentencepiece().SentencePieceTrainer.train(
        sentence_iterator=_prepare_training_lines(lines), model_writer=model, vocab_size=size,
        model_type='bpe',
        pad_id=PAD, bos_id=START, eos_id=END, unk_id=UNKNOWN, character_coverage=coverage,
        split_digits=split_digits, normalization_rule_name='identity', num_threads=threads,
        minloglevel=ERRORS_ONLY,
      )
    except RuntimeError as error:  # the message states the bound after a position in C++ code
      reason = ' '.join(str(error).split()).rpartition('] ')[2]
      raise ValueError(f'vocabulary_size={size} does not suit the text: {reason}') from None
    return cls(model.getvalue())

  @functools.cached_property
  def sentencepiece_processor(self):
    """The SentencePiece processor, which encodes and decodes text with this vocabulary."""
    return load_sentencepiece().SentencePieceProcessor(model_proto=self.model)

  @property
  def size(self) -> int:
    """The number of tokens."""
    return self.sentencepiece_processor.vocab_size()

  @property
  def digest(self) -> str:
    """The first 12 hexadecimal digits of the SHA-256 hash of the SentencePiece model."""
    return hashlib.sha256(self.model).hexdigest()[:12]

  def encode(self, lines: Sequence[str]) -> list[list[int]]:
    """Encodes each line of text as tokens, followed by END."""
    escaped_lines = [_escape_special_characters(line) for line in lines]
    return self.sentencepiece_processor.encode(escaped_lines, add_eos=True)

  def decode(self, tokens: Sequence[int]) -> str:
    """The text of one row of tokens up to its first END."""
    row = [int(token) for token in tokens]
    text = self.sentencepiece_processor.decode(row[: row.index(END)] if END in row else row)
    for character, stand_in in STAND_INS.items():
      text = text.replace(stand_in, character)
    return text

  def split_into_pieces(self, line: str) -> list[str]:
    """Splits a line into subword pieces, in which `▁` represents a space."""
    return self.sentencepiece_processor.encode(_escape_special_characters(line), out_type=str)

  def save(self, path: str | os.PathLike) -> None:
    """Atomically writes the SentencePiece model and its checksum to a file."""
    path = pathlib.Path(path)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    temporary.write_bytes(sentencepiece_model_checksum(self.model) + b'\n' + self.model)
    os.replace(temporary, path)

  @classmethod
  def load(cls, path: str | os.PathLike) -> 'Vocabulary':
    """Reads a vocabulary from a file that `save` wrote.

    Raises:
      DamagedVocabulary: if the checksum is wrong.
      OSError: if the file cannot be read.

    """
    stated, _, model = pathlib.Path(path).read_bytes().partition(b'\n')
    if stated != sentencepiece_model_checksum(model):
      raise DamagedVocabulary(
        f'the vocabulary {path} is damaged: its checksum does not match its content; delete it,'
        f' and it is created again'
      )
    return cls(model)


def normalize_whitespace(text: str) -> str:
  """Replaces each run of white space by one space, and removes white space at both ends."""
  return ' '.join(text.split())


def _escape_special_characters(line: str) -> str:
  """Normalises white space, and replaces special characters of SentencePiece by STAND_INS."""
  line = normalize_whitespace(line)
  for character, stand_in in STAND_INS.items():
    line = line.replace(character, stand_in)
  return line


def _prepare_training_lines(lines: Iterable[str]) -> Iterator[str]:
  """Escapes text that SentencePiece would alter, and splits lines longer than LONGEST bytes."""
  for line in map(_escape_special_characters, lines):
    for marker in MARKERS:
      line = line.replace(marker, ' '.join(marker))
    if len(line.encode()) <= LONGEST:
      yield line
    else:  # divide between words, which no piece spans; a character has at most four bytes
      yield from textwrap.wrap(line, LONGEST // 4, break_on_hyphens=False)


def sentencepiece_model_checksum(serialized_model: bytes) -> bytes:
  """The SHA-256 checksum of a serialised SentencePiece model, as hexadecimal digits."""
  return hashlib.sha256(serialized_model).hexdigest().encode()
