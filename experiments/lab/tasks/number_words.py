"""Translation of number words from one language to another.

  three hundred and sixty-five thousand  ->  dreihundertfünfundsechzigtausend

The task is a small model of translation. Words have parts, their order changes (sixty-five,
fünfundsechzig), and a few words form many sentences, so that a model cannot memorise them all. The
library num2words spells out both sides in lower case, with the hyphens and commas of the language.

Numbers with more digits have longer sentences, but also words that shorter numbers do not have,
such as *million*. The option `nonzero` limits the number of digits that are not 0 in numbers of up
to `digits` digits. A number with more nonzero digits is then a longer sentence of the same words.
"""

import copy
import dataclasses
import functools
import itertools
import math
import random
from collections.abc import Callable, Iterator
from typing import ClassVar

from experiments.lab import optional
from experiments.lab.tasks.pairs import PairTask, SentencePair

MOST_DIGITS = 12
VOCABULARY_PAIRS = 3000  # numbers that the vocabulary is trained on


@functools.cache
def make_number_speller(language: str) -> Callable[[int], str]:
  """Returns a function that spells out integers below 10^MOST_DIGITS in a given language."""
  known = optional.import_optional('num2words', 'number words', 'translation').CONVERTER_CLASSES
  if language not in known:
    raise ValueError(f'num2words has no {language!r}; its languages are {", ".join(sorted(known))}')
  converter = copy.copy(known[language])
  # To spell a number, num2words iterates over all number words in descending order of value.
  # Without the words for 10^MOST_DIGITS and above, spelling a number is three times as fast.
  if words := getattr(converter, 'cards', None):
    converter.cards = {value: word for value, word in words.items() if value < 10**MOST_DIGITS}

  def spell_out_number(number: int) -> str:
    try:
      return converter.to_cardinal(number).lower()
    except (RuntimeError, OverflowError, TypeError):  # num2words raises these, by language
      raise ValueError(f'num2words cannot spell {number} in {language!r}') from None

  return spell_out_number


@dataclasses.dataclass(frozen=True)
class NumberWords(PairTask):
  """Translation of spelled-out numbers of at most `digits` digits from one language to another.

  The length of a number is its number of digits, or with `nonzero`, its number of nonzero digits.
  The table has equally many numbers of each length from `fewest` on, as far as they exist, so that
  it includes all short numbers. Two examples (`.` is padding), `three hundred and sixty-five` and
  `halvfjerds millioner`, with the targets `dreihundertfünfundsechzig` and `seventy million`:

    number_words(digits=4, pairs=4000)
      source   92  21 13 105 150 145 136 75 2 . . .
      target  134 121 68 116  25   2   .  . . . . .

    number_words(source='da', target='en', digits=9, nonzero=3, pairs=4000)
      source  136 47 149 110 54 2 . . . . . . . . .
      target  111 30   2   .  . . . . . . .

  There is no published setting. The tokens are those of the vocabulary that is trained here.
  """

  source: str = 'en'
  target: str = 'de'
  digits: int = 6
  nonzero: int = 0
  fewest: int = 1

  family: ClassVar[str] = 'number_words'
  axis: ClassVar[str] = 'digits'

  def __post_init__(self):
    super().__post_init__()
    if not 2 <= self.digits <= MOST_DIGITS:
      raise ValueError(f'digits={self.digits}: number_words supports 2 to {MOST_DIGITS} digits')
    if not 0 <= self.nonzero <= self.digits:
      raise ValueError(
        f'nonzero={self.nonzero}: for {self.digits} digits, the limit must be 1 to'
        f' {self.digits}, or 0 for no limit'
      )
    if not 1 <= self.fewest <= self.dependency_distance:
      raise ValueError(
        f'fewest={self.fewest}: the minimum length must be 1 to {self.dependency_distance}'
      )
    for language in (self.source, self.target):
      make_number_speller(language)

  @property
  def title(self) -> str:
    return f'number words ({self.source} to {self.target})'

  @property
  def dependency_distance(self) -> int:
    """The maximum number of digits in a number, or of nonzero digits if `nonzero` is set."""
    return self.nonzero or self.digits

  @property
  def task_for_learning_subword_vocabulary(self) -> 'NumberWords':
    """The task on numbers of all lengths, on which the vocabulary is trained.

    Its two languages are in sorted order, so that the vocabulary does not depend on the direction
    of translation.
    """
    first, second = sorted((self.source, self.target))
    return dataclasses.replace(
      self, source=first, target=second, pairs=VOCABULARY_PAIRS, digits=MOST_DIGITS, nonzero=0,
      fewest=1,
    )

  def with_dependency_distance(self, distance: int) -> 'NumberWords':
    """A copy of this task with numbers of at most `distance` digits.

    If `nonzero` is set, only nonzero digits are counted.
    """
    fewest = min(self.fewest, distance)
    if not self.nonzero:
      return dataclasses.replace(self, digits=distance, fewest=fewest)
    digits = max(self.digits, distance)
    return dataclasses.replace(self, digits=digits, nonzero=distance, fewest=fewest)

  def extrapolation_task(self, dependency_distance: int) -> 'NumberWords':
    """A copy of this task with only numbers that are longer than the original maximum length."""
    return dataclasses.replace(
      self.with_dependency_distance(dependency_distance), fewest=self.dependency_distance + 1
    )

  def sentence_pairs(self) -> Iterator[SentencePair]:
    """Yields random distinct numbers, spelled out in both languages."""
    source, target = make_number_speller(self.source), make_number_speller(self.target)
    for number in self.sample_numbers():
      yield SentencePair(str(number), source(number), target(number))

  def sample_numbers(self) -> Iterator[int]:
    """Yields at most `pairs` distinct random numbers, in ascending order of length."""
    generator, remaining = random.Random(0), self.pairs
    for length in range(self.fewest, self.dependency_distance + 1):
      available = self.num_integers_of_length(length)
      count = min(available, remaining // (self.dependency_distance + 1 - length))
      for index in generator.sample(range(available), count):
        yield self.integer_with_num_digits(length, index)
      remaining -= count

  def num_integers_of_length(self, num_digits: int) -> int:
    """The number of integers with `num_digits` digits.

    If `nonzero` is set, only nonzero digits are counted.
    """
    if self.nonzero:
      return math.comb(self.digits, num_digits) * 9**num_digits
    return 9 * 10 ** (num_digits - 1)

  def integer_with_num_digits(self, num_digits: int, index: int) -> int:
    """The integer at position `index` in a list of all integers with `num_digits` digits.

    If `nonzero` is set, only nonzero digits are counted.
    """
    if not self.nonzero:
      return 10 ** (num_digits - 1) + index
    subset, index = divmod(index, 9**num_digits)
    subsets = itertools.combinations(range(self.digits), num_digits)  # of the nonzero positions
    positions = next(itertools.islice(subsets, subset, None))
    return sum((1 + index // 9**i % 9) * 10**position for i, position in enumerate(positions))
