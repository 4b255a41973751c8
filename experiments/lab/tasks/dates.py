"""Translation of dates from the format of one language to the format of another.

  Saturday, February 7, 1903  ->  7. Februar 1903          2/7/1903  ->  1903-02-07

Names are translated, numbers are copied, and their order changes, so that attention alignments are
easy to verify by eye. The library babel formats both sides with the Unicode Common Locale Data
Repository, which has four formats for each of hundreds of locales. ISO 8601 is a fifth format.
"""

import dataclasses
import datetime
import random
from collections.abc import Iterator
from typing import ClassVar

from experiments.lab import optional
from experiments.lab.tasks.pairs import PairTask, SentencePair

FORMATS = ('short', 'medium', 'long', 'full', 'iso')
FIRST, LAST = 1900, datetime.MAXYEAR
CENTURY = 100  # years after which a year of two digits repeats
VOCABULARY_PAIRS = 3000  # dates that the vocabulary is trained on


def check_locale(name: str) -> None:
  """Raises a ValueError if the library babel does not support a locale."""
  core = optional.import_optional('babel.core', 'dates', 'translation')
  try:
    core.Locale.parse(name)
  except (core.UnknownLocaleError, ValueError):
    raise ValueError(
      f'babel has no locale {name!r}; it has en_US, de_DE, fr, da and hundreds more'
    ) from None


@dataclasses.dataclass(frozen=True)
class Dates(PairTask):
  """Translation of dates from one format to another, such as English to German dates.

  The dates are in the years 1900 + `skipped` to 1899 + `years`. The formats are short, medium, long
  and full of babel, and iso, which is the same in all locales. In some locales the short format has
  two digits for the year, so that a short source cannot cover more than 100 years. Each digit is a
  separate token, so that years beyond training need no new tokens. Two examples (`.` is padding),
  `Saturday, February 7, 1903` and `07/02/1903`, with the targets `7. Februar 1903` and
  `1903-02-07`:

    dates(years=20)
      source   67 119 96 115 135 119 115 116 117 134 129 2 .
      target  115 135 126 58 115 116 117 134 129   2   .

    dates(source='fr_FR', source_format='short', target_format='iso', years=20, vocabulary_size=17)
      source  9 5 14 8 5 10 8  4 6 5 11 2
      target  9 4  6 5 11 7 5 10 7 5 14 2

  There is no published setting. The tokens are those of the vocabulary that is trained here.
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
        raise ValueError(
          f'{name}={getattr(self, name)!r}: the formats of dates are {", ".join(FORMATS)}'
        )
    if not 1 <= self.years <= LAST - FIRST + 1:
      raise ValueError(
        f'years={self.years}: dates supports 1 to {LAST - FIRST + 1} years from {FIRST} on'
      )
    if not 0 <= self.skipped < self.years:
      raise ValueError(
        f'skipped={self.skipped}: for {self.years} years, the number must be 0 to'
        f' {self.years - 1}'
      )
    for locale in (self.source, self.target):
      check_locale(locale)
    first, later = (datetime.date(year, 1, 1) for year in (FIRST, FIRST + CENTURY))
    sources = [self.format_source_and_target(date)[0] for date in (first, later)]
    if self.years > CENTURY and sources[0] == sources[1]:
      raise ValueError(
        f'years={self.years}: {self.source_format} dates of {self.source} have two digits for the'
        f' year; use at most {CENTURY} years, or source_format=medium'
      )

  @property
  def title(self) -> str:
    sides = f'{self.source} {self.source_format} to {self.target} {self.target_format}'
    return f'dates ({sides})'

  @property
  def dependency_distance(self) -> int:
    """The number of years, from 1900 on, from which the dates of this task are drawn.

    This task varies the number of years instead of a distance between tokens. Extrapolation tests
    use later years.
    """
    return self.years

  @property
  def task_for_learning_subword_vocabulary(self) -> 'Dates':
    """The task on dates from 1900 to 1999, on which the vocabulary is trained.

    Its two formats are in sorted order, so that the vocabulary does not depend on the direction of
    translation.
    """
    first, second = sorted(
      ((self.source, self.source_format), (self.target, self.target_format))
    )
    return dataclasses.replace(
      self, source=first[0], source_format=first[1], target=second[0], target_format=second[1],
      pairs=VOCABULARY_PAIRS, years=CENTURY, skipped=0,
    )

  def with_dependency_distance(self, distance: int) -> 'Dates':
    """A copy of this task whose dates are drawn from the `distance` years from 1900 on.

    This number of years serves as the dependency distance of the task.
    """
    return dataclasses.replace(self, years=distance, skipped=min(self.skipped, distance - 1))

  def extrapolation_task(self, dependency_distance: int) -> 'Dates':
    """A copy of this task with only dates that are later than the original dates."""
    return dataclasses.replace(self, years=dependency_distance, skipped=self.years)

  def sentence_pairs(self) -> Iterator[SentencePair]:
    """Random distinct dates, each in the source format and in the target format."""
    first = datetime.date(FIRST + self.skipped, 1, 1).toordinal()
    last = datetime.date(FIRST + self.years - 1, 12, 31).toordinal()
    days = range(first, last + 1)
    for day in random.Random(0).sample(days, min(self.pairs, len(days))):
      date = datetime.date.fromordinal(day)
      yield SentencePair(date.isoformat(), *self.format_source_and_target(date))

  def format_source_and_target(self, date: datetime.date) -> tuple[str, str]:
    """Formats a date as source text and as target text."""
    return (
      format_date(date, self.source, self.source_format),
      format_date(date, self.target, self.target_format),
    )


def format_date(date: datetime.date, locale: str, format_name: str) -> str:
  """A date as text.

  Args:
    date: the date.
    locale: a locale of babel, such as 'en_US' or 'fr'.
    format_name: a format of FORMATS, of which 'iso' ignores the locale.

  Returns:
    The formatted date.

  """
  if format_name == 'iso':
    return date.isoformat()
  babel_dates = optional.import_optional('babel.dates', 'dates', 'translation')
  return babel_dates.format_date(date, format_name, locale)
