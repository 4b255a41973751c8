"""The pronoun task: what *it* stands for, by reading the sentences as words."""

import jax
import numpy as np
import pytest

from experiments.lab.tasks import pronouns
from experiments.lab.tasks.pronouns import Pronouns


def numpy_batch(task, batch_size):
  """A batch, out of JAX, compiled as a whole."""
  batch = jax.jit(task.batch, static_argnums=(0, 2))
  return jax.tree.map(np.asarray, batch('train', 0, batch_size))


def read(words):
  """What *it* stands for, by reading the sentence as words."""
  verb = next(place for place, word in enumerate(words)
              if word in pronouns.DONE_BY_ANIMALS + pronouns.DONE_BY_PLACES)
  subject, other = words[verb - 3], words[verb + 2]
  wanted = pronouns.ANIMALS if words[-2] in pronouns.OF_ANIMALS else pronouns.PLACES
  (answer,) = [noun for noun in (subject, other) if noun in wanted]
  others = [word for place, word in enumerate(words) if place not in (verb - 3, verb + 2)
            and word in pronouns.ANIMALS + pronouns.PLACES]
  assert (subject in pronouns.PLACES) == (words[verb] in pronouns.DONE_BY_PLACES)
  assert not {subject, other} & set(others)
  return answer, subject, others


@pytest.mark.parametrize('words, fewest', [(4, 0), (4, 4), (20, 8)])
def test_it_stands_for_the_noun_of_the_first_clause_that_the_adjective_suits(words, fewest):
  task = Pronouns(words, fewest)
  batch = numpy_batch(task, batch_size=64)
  places = jax.tree.map(np.asarray, jax.jit(task.places)(batch.source))
  for row, (source, target, weight) in enumerate(zip(*batch, strict=True)):
    words = task.text(source).split()
    answer, _, _ = read(words)
    question, noun = places['question'][row], places['antecedent'][row]
    assert words[-1] == '.' and question == len(words) - 1
    assert words[places['pronoun'][row]] == 'it'
    assert words[noun] == answer == pronouns.WORDS[target[question]]
    assert weight.tolist() == [float(place == question) for place in range(task.length)]
    between = words.index('because') - words.index("n't") - 4  # verb and object come first
    assert between in range(task.fewest, task.words + 1, 4)


def test_no_rule_of_thumb_finds_the_antecedent():
  """Neither the subject, nor the last noun, nor the first or last that suits the adjective."""
  task, right = Pronouns(words=16), np.zeros(4)
  batch = numpy_batch(task, batch_size=512)
  for source in batch.source:
    words = task.text(source).split()
    answer, subject, _ = read(words)
    nouns = [word for word in words if word in pronouns.ANIMALS + pronouns.PLACES]
    suits = pronouns.ANIMALS if words[-2] in pronouns.OF_ANIMALS else pronouns.PLACES
    fits = [noun for noun in nouns if noun in suits]
    right += [answer == rule for rule in (subject, nouns[-1], fits[0], fits[-1])]
  assert np.all(right / 512 < [0.6, 0.25, 0.8, 0.5])
  assert right[0] / 512 > 0.4  # the subject half the time, the object else


def test_the_published_sentences_can_occur():
  for adjective, answer in (('tired', 'animal'), ('wide', 'street')):
    words = f"the animal did n't cross the street because it was too {adjective} .".split()
    source = np.array([[pronouns.TOKENS[word] for word in words]])
    assert read(words)[0] == answer
    assert words[int(Pronouns().places(source)['antecedent'][0])] == answer


@pytest.mark.parametrize('bad, hint', [
  ({'words': 10}, 'words=10'),
  ({'words': 0}, 'words=0'),
  ({'fewest': 20}, 'to 16'),
  ({'fewest': 3}, 'fewest=3'),
])
def test_bad_settings_are_refused_in_one_line(bad, hint):
  with pytest.raises(ValueError, match=hint) as refusal:
    Pronouns(**bad)
  assert '\n' not in str(refusal.value)
