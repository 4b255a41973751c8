"""Dates: a day, written as one language has it, to be written as another has it.

  Saturday, February 7, 1903  ->  7. Februar 1903          2/7/1903  ->  1903-02-07

Names are translated, numbers copied, and their order changes: an alignment can be seen by eye. The
library babel writes both sides, from the Unicode Common Locale Data Repository: four formats for
each of hundreds of locales, and ISO 8601.
"""

import dataclasses
import datetime
import random
from collections.abc import Iterator
from typing import ClassVar

from experiments.lab import optional
from experiments.lab.tasks.pairs import Pair, Pairs

FORMATS = ('short', 'medium', 'long', 'full', 'iso')
FIRST, LAST = 1900, datetime.MAXYEAR
CENTURY = 100  # years after which two digits say the same year
TEXTBOOK = 3000  # dates that the vocabulary is learnt from


def check_locale(name: str) -> None:
  """ValueError in one line for a locale that babel does not have."""
  core = optional.load('babel.core', 'dates', 'translation')
  try:
    core.Locale.parse(name)
  except (core.UnknownLocaleError, ValueError):
    raise ValueError(
      f'no locale {name!r} in babel; there are en_US, de_DE, fr, da and some hundred more'
    ) from None


@dataclasses.dataclass(frozen=True)
class Dates(Pairs):
  """Days of `years` years from 1900 on, but of the first `skipped`, in two locales and formats.

  Formats are babel's short, medium, long and full, and iso, which is the same in all locales. In
  some locales a short one has two digits for the year, and as a source tells 100 years apart.
  Digits are tokens of their own, so that years beyond training have no token that is new. Two
  examples (`.` fills up), `Saturday, February 7, 1903` and `07/02/1903`, of which the targets are
  `7. Februar 1903` and `1903-02-07`:

    dates(years=20)
      source   67 119 96 115 135 119 115 116 117 134 129 2 .
      target  115 135 126 58 115 116 117 134 129   2   .

    dates(source='fr_FR', source_format='short', target_format='iso', years=20, vocabulary_size=17)
      source  9 5 14 8 5 10 8  4 6 5 11 2
      target  9 4  6 5 11 7 5 10 7 5 14 2

  There is no published setting. Tokens are those of the vocabulary learnt here.
  """

  source: str = 'en_US'
  target: str = 'de_DE'
  source_format: str = 'full'
  target_format: str = 'long'
  years: int = 200
  skipped: int = 0

  family: ClassVar[str] = 'dates'
  axis: ClassVar[str] = 'years'

  def __post_init__(self):
    super().__post_init__()
    for name in ('source_format', 'target_format'):
      if getattr(self, name) not in FORMATS:
        raise ValueError(f'{name}={getattr(self, name)!r}: dates knows {", ".join(FORMATS)}')
    if not 1 <= self.years <= LAST - FIRST + 1:
      raise ValueError(f'years={self.years}: dates knows 1 to {LAST - FIRST + 1} from {FIRST} on')
    if not 0 <= self.skipped < self.years:
      raise ValueError(f'skipped={self.skipped}: of {self.years} years 0 to {self.years - 1}')
    for locale in (self.source, self.target):
      check_locale(locale)
    then, later = (datetime.date(year, 1, 1) for year in (FIRST, FIRST + CENTURY))
    if self.years > CENTURY and self.said(then)[0] == self.said(later)[0]:
      raise ValueError(
        f'years={self.years}: {self.source_format} dates of {self.source} have two digits for the'
        f' year: make it {CENTURY} years at most, or the source_format medium'
      )

  @property
  def title(self) -> str:
    """Says the locales and the formats."""
    sides = f'{self.source} {self.source_format} to {self.target} {self.target_format}'
    return f'dates ({sides})'

  @property
  def distance(self) -> int:
    """How many years from 1900 on there are dates of."""
    return self.years

  @property
  def textbook(self) -> 'Dates':
    """The 20th century."""
    first, second = sorted(
      ((self.source, self.source_format), (self.target, self.target_format))
    )
    return dataclasses.replace(
      self, source=first[0], source_format=first[1], target=second[0], target_format=second[1],
      pairs=TEXTBOOK, years=CENTURY, skipped=0,
    )

  def at(self, distance: int) -> 'Dates':
    """Other years, from the same one on."""
    return dataclasses.replace(self, years=distance, skipped=min(self.skipped, distance - 1))

  def beyond(self, distance: int) -> 'Dates':
    """Only years that come after all of this task's."""
    return dataclasses.replace(self, years=distance, skipped=self.years)

  def sentences(self) -> Iterator[Pair]:
    """Days drawn without replacement, written twice."""
    first = datetime.date(FIRST + self.skipped, 1, 1).toordinal()
    last = datetime.date(FIRST + self.years - 1, 12, 31).toordinal()
    days = range(first, last + 1)
    for day in random.Random(0).sample(days, min(self.pairs, len(days))):
      date = datetime.date.fromordinal(day)
      yield Pair(date.isoformat(), *self.said(date))

  def said(self, date: datetime.date) -> tuple[str, str]:
    """A day as the source writes it, and as the target does."""
    return (
      written(date, self.source, self.source_format),
      written(date, self.target, self.target_format),
    )


def written(date: datetime.date, locale: str, form: str) -> str:
  """A day in a format of a locale."""
  if form == 'iso':
    return date.isoformat()
  return optional.load('babel.dates', 'dates', 'translation').format_date(date, form, locale)
