"""Translation sets as TensorFlow Datasets has them, so small that a test makes them itself.

They are made and read by the code that serves the large ones; only the download is missing.
"""

import random

import tensorflow_datasets as tfds

# It defines flags when it is imported, which must not happen within a test's command: `command.run`
# forgets the flags that were defined in it.
from array_record.python import array_record_data_source  # noqa: F401

WORDS = {
  'one': 'eins', 'two': 'zwei', 'three': 'drei', 'four': 'vier', 'five': 'fünf', 'six': 'sechs',
  'and': 'und', 'red': 'rot', 'green': 'grün', 'blue': 'blau', 'house': 'Haus', 'tree': 'Baum',
}


def sentences(count: int, seed: int, lengths=range(1, 13)):
  """Distinct pairs of so many words, German in reverse order."""
  draw, found = random.Random(seed), {}
  while len(found) < count:
    words = draw.choices(list(WORDS), k=draw.choice(lengths))
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


class TinyLengths(TinyTranslation):
  """Sentences of two words and of nine, so that batches have two lengths."""

  SIZES = {'train': 120, 'validation': 16, 'test': 40}  # noqa: RUF012

  def _generate_examples(self, split):
    seed = sorted(self.SIZES).index(split)
    yield from enumerate(sentences(self.SIZES[split], seed, (2, 9)))


ODD = (  # what no vocabulary keeps, or what the training text lacks
  ('one  house', 'Ærøskøbing  Haus'), ('red ▁ tree', 'rot ▁ Baum'), ('<s> one', '<s> eins'),
  ('\tone\ttwo', ' eins\u00a0zwei\u202f'), ('three\u3000four', 'drei\r\nvier'),
  ('blue ▅', 'blau ⁇'), ('e\u0301', 'é'), ('one', ' \t'), ('', 'eins'),
)


class TinyOdd(TinyTranslation):
  """The test split has sentences of unknown letters, white space of all kinds and empty sides."""

  def _generate_examples(self, split):
    if split == 'test':
      yield from enumerate([dict(zip(('en', 'de'), pair, strict=True)) for pair in ODD])
    else:
      yield from super()._generate_examples(split)


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
