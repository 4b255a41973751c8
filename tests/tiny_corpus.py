"""Translation sets as TensorFlow Datasets has them, so small that a test makes them itself.

They are made and read by the code that serves the large ones; only the download is missing.
"""

import random

import tensorflow_datasets as tfds

WORDS = {
  'one': 'eins', 'two': 'zwei', 'three': 'drei', 'four': 'vier', 'five': 'fünf', 'six': 'sechs',
  'and': 'und', 'red': 'rot', 'green': 'grün', 'blue': 'blau', 'house': 'Haus', 'tree': 'Baum',
}


def sentences(count: int, seed: int):
  """Distinct pairs of 1 to 12 words, German in reverse order."""
  draw, found = random.Random(seed), {}
  while len(found) < count:
    words = draw.choices(list(WORDS), k=draw.randint(1, 12))
    found[' '.join(words)] = ' '.join(WORDS[word] for word in reversed(words))
  return [{'en': english, 'de': german} for english, german in found.items()]


class TinyTranslation(tfds.core.GeneratorBasedBuilder):
  """Three splits."""

  VERSION = tfds.core.Version('1.0.0')
  SIZES = {'train': 300, 'validation': 40, 'test': 30}  # noqa: RUF012

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.Translation(languages=('de', 'en'))
    )

  def _split_generators(self, manager):
    return {split: self._generate_examples(split) for split in self.SIZES}

  def _generate_examples(self, split):
    pairs = sentences(self.SIZES[split], sorted(self.SIZES).index(split))
    yield from enumerate(pairs)


class TinyUnsplit(TinyTranslation):
  """One split, in which a pair stands ten times, and one has an empty side."""

  SIZES = {'train': 600}  # noqa: RUF012

  def _generate_examples(self, split):
    pairs = sentences(self.SIZES[split], 0)
    yield from enumerate([*pairs, *[pairs[0]] * 9, {'en': 'one', 'de': ' '}])


class TinyUntrained(TinyTranslation):
  """Nothing to train on."""

  SIZES = {'test': 30}  # noqa: RUF012


class TinyTitles(TinyTranslation):
  """No translation at all."""

  def _info(self):
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict({'title': tfds.features.Text()})
    )

  def _generate_examples(self, split):
    yield 0, {'title': split}
