"""Number words: a number, spelled out in one language, to be spelled out in another.

  three hundred and sixty-five thousand  ->  dreihundertfünfundsechzigtausend

It is translation in small: words have parts, their order changes (sixty-five, fünfundsechzig), and
few words make many sentences, so that nobody can know the sentences by heart. The library num2words
writes both sides, with the hyphens and commas of the language, in small letters.

A number is longer the more digits it has; but a longer one has words that no shorter one has, such
as *million*. With `nonzero`, numbers of up to `digits` digits have at most so many that are not 0:
then a number with more of them is a longer sentence in the same words.
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
from experiments.lab.tasks.pairs import Pair, Pairs

MOST_DIGITS = 12
TEXTBOOK = 3000  # numbers that the vocabulary is learnt from


@functools.cache
def speller(language: str) -> Callable[[int], str]:
  """What writes numbers of up to MOST_DIGITS digits; ValueError for an unknown language."""
  known = optional.load('num2words', 'number words', 'translation').CONVERTER_CLASSES
  if language not in known:
    raise ValueError(f'no number words in {language!r}; there are {", ".join(sorted(known))}')
  converter = copy.copy(known[language])
  # It goes through its words from the greatest number down: without those too great, in a third
  # of the time.
  if words := getattr(converter, 'cards', None):
    converter.cards = {value: word for value, word in words.items() if value < 10**MOST_DIGITS}

  def spell(number: int) -> str:
    try:
      return converter.to_cardinal(number).lower()
    except (RuntimeError, OverflowError, TypeError):  # what num2words raises, by language
      raise ValueError(f'num2words cannot write {number} in {language!r}') from None

  return spell


@dataclasses.dataclass(frozen=True)
class NumberWords(Pairs):
  """Numbers of up to `digits` digits, from one language of num2words into another.

  A number's length is how many digits it has, or, with `nonzero`, how many that are not 0. Lengths
  from `fewest` up are in the table as evenly as they can be, so that of the short ones all are.
  Two examples (`.` fills up), `three hundred and sixty-five` and `halvfjerds millioner`, of which
  the targets are `dreihundertfünfundsechzig` and `seventy million`:

    number_words(digits=4, pairs=4000)
      source   92  21 13 105 150 145 136 75 2 . . .
      target  134 121 68 116  25   2   .  . . . . .

    number_words(source='da', target='en', digits=9, nonzero=3, pairs=4000)
      source  136 47 149 110 54 2 . . . . . . . . .
      target  111 30   2   .  . . . . . . .

  There is no published setting. Tokens are those of the vocabulary learnt here.
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
      raise ValueError(f'digits={self.digits}: number_words has 2 to {MOST_DIGITS}')
    if not 0 <= self.nonzero <= self.digits:
      raise ValueError(
        f'nonzero={self.nonzero}: of {self.digits} digits 1 to {self.digits} are not 0, or any (0)'
      )
    if not 1 <= self.fewest <= self.distance:
      raise ValueError(f'fewest={self.fewest}: number_words takes 1 to {self.distance} here')
    for language in (self.source, self.target):
      speller(language)

  @property
  def title(self) -> str:
    """Says the languages."""
    return f'number words ({self.source} to {self.target})'

  @property
  def distance(self) -> int:
    """The length of the longest number."""
    return self.nonzero or self.digits

  @property
  def textbook(self) -> 'NumberWords':
    """All lengths."""
    first, second = sorted((self.source, self.target))
    return dataclasses.replace(
      self, source=first, target=second, pairs=TEXTBOOK, digits=MOST_DIGITS, nonzero=0, fewest=1
    )

  def at(self, distance: int) -> 'NumberWords':
    """Another greatest length; more digits, where they are all meant or too few."""
    fewest = min(self.fewest, distance)
    if not self.nonzero:
      return dataclasses.replace(self, digits=distance, fewest=fewest)
    digits = max(self.digits, distance)
    return dataclasses.replace(self, digits=digits, nonzero=distance, fewest=fewest)

  def beyond(self, distance: int) -> 'NumberWords':
    """Numbers that are longer than all of this task's."""
    return dataclasses.replace(self.at(distance), fewest=self.distance + 1)

  def sentences(self) -> Iterator[Pair]:
    """Numbers drawn without replacement, spelled out twice."""
    source, target = speller(self.source), speller(self.target)
    for number in self.numbers():
      yield Pair(str(number), source(number), target(number))

  def numbers(self) -> Iterator[int]:
    """At most `pairs` numbers, the short ones first."""
    generator, left = random.Random(0), self.pairs
    for length in range(self.fewest, self.distance + 1):
      count = min(self.population(length), left // (self.distance + 1 - length))
      for rank in generator.sample(range(self.population(length)), count):
        yield self.number(length, rank)
      left -= count

  def population(self, length: int) -> int:
    """How many numbers of a length there are."""
    if self.nonzero:
      return math.comb(self.digits, length) * 9**length
    return 9 * 10 ** (length - 1)

  def number(self, length: int, rank: int) -> int:
    """Number `rank` of those of a length."""
    if not self.nonzero:
      return 10 ** (length - 1) + rank
    which, rank = divmod(rank, 9**length)
    places = next(itertools.islice(itertools.combinations(range(self.digits), length), which, None))
    return sum((1 + rank // 9**i % 9) * 10**place for i, place in enumerate(places))
