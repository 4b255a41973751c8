"""Tests of the antecedents in the pronoun task, by parsing the words of its sentences."""

import jax
import numpy as np
import pytest

from experiments.lab.tasks import pronouns
from experiments.lab.tasks.pronouns import Pronouns


def numpy_batch(task, batch_size):
  """A training batch as NumPy arrays."""
  batch = jax.jit(task.batch, static_argnums=(0, 2))
  return jax.tree.map(np.asarray, batch('train', 0, batch_size))


def parse_sentence(words):
  """The antecedent, the subject of the first clause, and the nouns outside of that clause."""
  verb = next(position for position, word in enumerate(words)
              if word in pronouns.DONE_BY_ANIMALS + pronouns.DONE_BY_PLACES)
  subject, noun_object = words[verb - 3], words[verb + 2]
  fitting_nouns = pronouns.ANIMALS if words[-2] in pronouns.OF_ANIMALS else pronouns.PLACES
  (antecedent,) = [noun for noun in (subject, noun_object) if noun in fitting_nouns]
  others = [word for position, word in enumerate(words) if position not in (verb - 3, verb + 2)
            and word in pronouns.ANIMALS + pronouns.PLACES]
  assert (subject in pronouns.PLACES) == (words[verb] in pronouns.DONE_BY_PLACES)
  assert not {subject, noun_object} & set(others)
  return antecedent, subject, others


@pytest.mark.parametrize('words, fewest', [(4, 0), (4, 4), (20, 8)])
def test_antecedent_is_the_noun_of_the_first_clause_that_fits_the_adjective(words, fewest):
  task = Pronouns(words, fewest)
  batch = numpy_batch(task, batch_size=64)
  positions = jax.tree.map(np.asarray, jax.jit(task.positions_for_attention_analysis)(batch.source))
  for row, (source, target, weight) in enumerate(zip(*batch, strict=True)):
    words = task.detokenize(source).split()
    antecedent, _, _ = parse_sentence(words)
    prediction, noun = positions['prediction'][row], positions['antecedent'][row]
    assert words[-1] == '.' and prediction == len(words) - 1
    assert words[positions['pronoun'][row]] == 'it'
    assert words[noun] == antecedent == pronouns.WORDS[target[prediction]]
    assert weight.tolist() == [float(position == prediction) for position in range(task.length)]
    # The verb and the object are between "n't" and the phrases.
    between = words.index('because') - words.index("n't") - 4
    assert between in range(task.fewest, task.words + 1, 4)


def test_no_simple_heuristic_predicts_the_antecedent():
  """The heuristics are the subject, the last noun, and the first or last noun that fits."""
  task, correct = Pronouns(words=16), np.zeros(4)
  batch = numpy_batch(task, batch_size=512)
  for source in batch.source:
    words = task.detokenize(source).split()
    antecedent, subject, _ = parse_sentence(words)
    nouns = [word for word in words if word in pronouns.ANIMALS + pronouns.PLACES]
    kind = pronouns.ANIMALS if words[-2] in pronouns.OF_ANIMALS else pronouns.PLACES
    fitting = [noun for noun in nouns if noun in kind]
    predictions = subject, nouns[-1], fitting[0], fitting[-1]
    correct += [antecedent == prediction for prediction in predictions]
  assert np.all(correct / 512 < [0.6, 0.25, 0.8, 0.5])
  assert correct[0] / 512 > 0.4  # subject and object are equally frequent antecedents


def test_the_published_sentences_belong_to_the_task():
  for adjective, antecedent in (('tired', 'animal'), ('wide', 'street')):
    words = f"the animal did n't cross the street because it was too {adjective} .".split()
    source = np.array([[pronouns.TOKENS[word] for word in words]])
    assert parse_sentence(words)[0] == antecedent
    positions = Pronouns().positions_for_attention_analysis(source)
    assert words[int(positions['antecedent'][0])] == antecedent


@pytest.mark.parametrize('options, message', [
  ({'words': 10}, 'words=10'),
  ({'words': 0}, 'words=0'),
  ({'fewest': 20}, 'to 16'),
  ({'fewest': 3}, 'fewest=3'),
])
def test_invalid_options_are_refused_in_one_line(options, message):
  with pytest.raises(ValueError, match=message) as refusal:
    Pronouns(**options)
  assert '\n' not in str(refusal.value)
