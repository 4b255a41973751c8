"""Small translation data sets of TensorFlow Datasets, which tests generate without a download.

The same code prepares and reads them as large data sets. Only the download is missing.
"""

import random

import tensorflow_datasets as tfds

# This import defines flags, which must precede the commands of tests.
# A command of `tests.support.command` removes all flags that are defined during it.
from array_record.python import array_record_data_source  # noqa: F401

WORDS = {
  'one': 'eins', 'two': 'zwei', 'three': 'drei', 'four': 'vier', 'five': 'fünf', 'six': 'sechs',
  'and': 'und', 'red': 'rot', 'green': 'grün', 'blue': 'blau', 'house': 'Haus', 'tree': 'Baum',
}


def make_sentence_pairs(count: int, seed: int, lengths=range(1, 13)):
  """Distinct random sentence pairs, whose German words are in reverse order.

  Args:
    count: number of pairs.
    seed: seed of the random generator.
    lengths: possible numbers of words.

  Returns:
    A list of dicts with the keys 'en' and 'de'.

  """
  generator, translations = random.Random(seed), {}
  while len(translations) < count:
    words = generator.choices(list(WORDS), k=generator.choice(lengths))
    translations[' '.join(words)] = ' '.join(WORDS[word] for word in reversed(words))
  return [{'en': english, 'de': german} for english, german in translations.items()]


class TinyTranslation(tfds.core.GeneratorBasedBuilder):
  """A data set with three splits."""

  VERSION = tfds.core.Version('1.0.0')
  SIZES = {'train': 300, 'validation': 40, 'test': 30}  # noqa: RUF012

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.Translation(languages=('de', 'en'))
    )

  def _split_generators(self, manager):
    return {split: self._generate_examples(split) for split in self.SIZES}

  def _generate_examples(self, split):
    pairs = make_sentence_pairs(self.SIZES[split], sorted(self.SIZES).index(split))
    yield from enumerate(pairs)


class TinyLengths(TinyTranslation):
  """A data set with sentences of two and nine words, so that batches have two lengths."""

  SIZES = {'train': 120, 'validation': 16, 'test': 40}  # noqa: RUF012

  def _generate_examples(self, split):
    seed = sorted(self.SIZES).index(split)
    yield from enumerate(make_sentence_pairs(self.SIZES[split], seed, (2, 9)))


ODD = (  # characters that a vocabulary loses or that the training text lacks
  ('one  house', 'Ærøskøbing  Haus'), ('red ▁ tree', 'rot ▁ Baum'), ('<s> one', '<s> eins'),
  ('\tone\ttwo', ' eins\u00a0zwei\u202f'), ('three\u3000four', 'drei\r\nvier'),
  ('blue ▅', 'blau ⁇'), ('e\u0301', 'é'), ('one', ' \t'), ('', 'eins'),
)


class TinyOdd(TinyTranslation):
  """A data set with unknown letters, unusual white space and empty sides in its test split."""

  def _generate_examples(self, split):
    if split == 'test':
      yield from enumerate([dict(zip(('en', 'de'), pair, strict=True)) for pair in ODD])
    else:
      yield from super()._generate_examples(split)


class TinyUnsplit(TinyTranslation):
  """A data set with one split, which has one pair ten times and one pair with an empty side."""

  SIZES = {'train': 600}  # noqa: RUF012

  def _generate_examples(self, split):
    pairs = make_sentence_pairs(self.SIZES[split], 0)
    yield from enumerate([*pairs, *[pairs[0]] * 9, {'en': 'one', 'de': ' '}])


class TinyUntrained(TinyTranslation):
  """A data set without a training split."""

  SIZES = {'test': 30}  # noqa: RUF012


class TinyTitles(TinyTranslation):
  """A data set that has no translations."""

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict({'title': tfds.features.Text()})
    )

  def _generate_examples(self, split):
    yield 0, {'title': split}
