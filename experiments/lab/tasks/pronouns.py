"""Pronouns: which of two nouns *it* is, which only the words after it tell.

  the animal did n't cross the street because it was too tired .      it = the animal
  the animal did n't cross the street because it was too wide .       it = the street

Subject and object are an animal and a place, in either order; the adjective suits animals alone or
places alone. So the answer hangs on both clauses. Phrases with other animals and places stand
before the first clause and between the two: neither the nearest noun that suits the adjective, nor
the first, nor the noun at some place in the sentence is the one that is meant.

Winograd 1972, "Understanding natural language"; Levesque, Davis and Morgenstern 2012, "The Winograd
schema challenge"; Vaswani et al. 2017, "Attention is all you need", for heads that find an
antecedent (figure 4), whose authors gave the two sentences above.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from experiments.lab.tasks.task import Batch, Space, Task, certain, uniform

ANIMALS = ('animal', 'dog', 'cat', 'horse', 'cow', 'goat', 'fox', 'wolf', 'bear', 'deer', 'rabbit',
           'mouse')
PLACES = ('street', 'road', 'river', 'bridge', 'path', 'tunnel', 'valley', 'field', 'canal', 'lake',
          'forest', 'trail')
DONE_BY_ANIMALS = ('cross', 'enter', 'leave', 'reach', 'follow', 'explore', 'use', 'like')
DONE_BY_PLACES = ('please', 'attract', 'suit', 'impress', 'help', 'interest', 'satisfy', 'calm')
OF_ANIMALS = ('tired', 'hungry', 'thirsty', 'sleepy', 'scared', 'nervous', 'lazy', 'angry')
OF_PLACES = ('wide', 'narrow', 'steep', 'deep', 'broad', 'winding', 'rocky', 'crowded')
PREPOSITIONS = ('near', 'behind', 'beside', 'beyond', 'past', 'opposite', 'without', 'unlike')
FILL = '_'  # stands after the end of a sentence

WORDS = (FILL, 'the', 'did', "n't", 'because', 'it', 'was', 'too', ',', '.', *PREPOSITIONS,
         *ANIMALS, *PLACES, *DONE_BY_ANIMALS, *DONE_BY_PLACES, *OF_ANIMALS, *OF_PLACES)
TOKENS = {word: token for token, word in enumerate(WORDS)}
KINDS = len(ANIMALS)  # of animals, and of places
VARIANTS = len(OF_ANIMALS)  # of each of the two classes of adjectives, and of verbs
NOUN, VERB, ADJECTIVE = (TOKENS[group[0]] for group in (ANIMALS, DONE_BY_ANIMALS, OF_ANIMALS))

PHRASE, FIRST_CLAUSE, SECOND_CLAUSE = 4, 7, 6  # words, with commas and full stop
PREFIXES = 2  # at most so many phrases stand before the first clause
BEFORE_VERB, AFTER_VERB = 3, 2  # how far the subject stands from the verb, and the object


@dataclasses.dataclass(frozen=True)
class Pronouns(Task):
  """At the full stop, the noun that *it* stands for, `words` words or fewer after its clause.

  Those words, `fewest` at least, are phrases of 4, such as `, near the dog`. Of 24 nouns, 12 are
  animals and 12 places. Two examples (`_`, which is 0, fills up; `.` has no weight):

    pronouns(words=4)
      source  1 18 2 3 42 1 30 8 10 1 19 4 5 6 7 58  9 0 0 0 0 0 0 0 0
      target  .  . . .  . .  . .  . .  . . . . .  . 18 . . . . . . . .

    pronouns(words=8, fewest=8)
      source  11 1 32 8 1 30 2 3 50 1 18 8 14 1 39 8 10 1 19 4 5 6 7 66  9 0 0 0 0
      target   . .  . . .  . . .  . .  . .  . .  . .  . .  . . . . .  . 30 . . . .

  The first is `the animal did n't cross the street , near the dog because it was too tired .` and
  the second, whose answer is the street, `behind the river , the street did n't please the animal ,
  past the lake , near the dog because it was too wide .`

  There is no published setting: the two sentences are the published part.
  """

  words: int = 16
  fewest: int = 0

  family: ClassVar[str] = 'pronouns'
  axis: ClassVar[str] = 'words between'
  solved: ClassVar[float] = 0.99

  def __post_init__(self):
    if self.words < PHRASE or self.words % PHRASE:
      raise ValueError(f'words={self.words}: pronouns takes 4, 8, 12 and so on, in phrases of 4')
    if self.fewest % PHRASE or not 0 <= self.fewest <= self.words:
      raise ValueError(f'fewest={self.fewest}: pronouns takes 0, 4, 8 and so on to {self.words}')

  @property
  def inputs(self) -> Space:
    """Words."""
    return Space('tokens', len(WORDS))

  @property
  def distance(self) -> int:
    """The most words between the first clause and the second."""
    return self.words

  @property
  def length(self) -> int:
    """Room for the longest sentence."""
    return PREFIXES * PHRASE + FIRST_CLAUSE + self.words + SECOND_CLAUSE

  @property
  def chance(self) -> float:
    """Every noun is equally likely."""
    return 1 / (2 * KINDS)

  def at(self, distance: int) -> 'Pronouns':
    """Another number of words between."""
    return dataclasses.replace(self, words=distance, fewest=min(self.fewest, distance))

  def beyond(self, distance: int) -> 'Pronouns':
    """Only numbers of words between that this task does not have."""
    return dataclasses.replace(self, words=distance, fewest=self.words + PHRASE)

  def batch(self, split: str, index, batch_size: int) -> Batch:
    """Two clauses of random words, and as many phrases before and between as are drawn."""
    *keys, phrase_key, before_key, between_key = jax.random.split(self.key(split, index), 8)

    def draw(key, count, *shape):
      return jax.random.randint(key, (batch_size, *shape), 0, count)

    kinds = draw(keys[0], KINDS, 2)  # of an animal, of a place
    nouns = NOUN + KINDS * jnp.arange(2)[None, :] + kinds
    by_place, of_place = draw(keys[1], 2), draw(keys[2], 2)  # the subject's class, the adjective's
    subject, other, answer = (pick(nouns, which) for which in (by_place, 1 - by_place, of_place))
    verb = VERB + VARIANTS * by_place + draw(keys[3], VARIANTS)
    adjective = ADJECTIVE + VARIANTS * of_place + draw(keys[4], VARIANTS)

    preposition, noun = phrases(phrase_key, kinds, PREFIXES + self.words // PHRASE)
    before = sentence('{} the {} ,', preposition[:, :PREFIXES], noun[:, :PREFIXES])
    between = sentence(', {} the {}', preposition[:, PREFIXES:], noun[:, PREFIXES:])
    many = jax.random.randint(
      between_key, (batch_size,), self.fewest // PHRASE, self.words // PHRASE + 1
    )
    source = joined(
      first_of(before, draw(before_key, PREFIXES + 1)),
      sentence("the {} did n't {} the {}", subject, verb, other),
      first_of(between, many),
      sentence('because it was too {} .', adjective),
    )
    asked = source == TOKENS['.']
    return Batch(source, jnp.where(asked, answer[:, None], 0), asked.astype(jnp.float32))

  def places(self, source: jax.Array) -> dict[str, jax.Array]:
    """Where in source [B, S] stand the pronoun, the noun that it means, and the full stop: [B]."""
    verb = jnp.argmax((source >= VERB) & (source < ADJECTIVE), 1)
    adjective = jnp.max(jnp.where(source >= ADJECTIVE, source, 0), 1)
    subject_is_place = pick(source, verb - BEFORE_VERB) >= NOUN + KINDS
    is_subject = subject_is_place == (adjective >= ADJECTIVE + VARIANTS)
    return {
      'antecedent': jnp.where(is_subject, verb - BEFORE_VERB, verb + AFTER_VERB),
      'pronoun': jnp.argmax(source == TOKENS['it'], 1),
      'question': jnp.argmax(source == TOKENS['.'], 1),
    }

  def oracle(self, source: jax.Array) -> jax.Array:
    """The noun of the first clause that the adjective suits."""
    answer = pick(source, self.places(source)['antecedent'])
    return certain(jnp.broadcast_to(answer[:, None], source.shape), self.outputs.size)

  def baseline(self, source: jax.Array) -> jax.Array:
    """Any noun, all equally likely."""
    token = jnp.arange(self.outputs.size)
    possible = (token >= NOUN) & (token < VERB)
    return jnp.broadcast_to(uniform(possible), (*source.shape, self.outputs.size))

  def text(self, tokens) -> str:
    """The words that a row of tokens stands for, on the host."""
    return ' '.join(WORDS[int(token)] for token in tokens if int(token) != TOKENS[FILL])


def sentence(template: str, *filled: jax.Array) -> jax.Array:  # [...] each -> [..., words]
  """A template's words as tokens; those that it leaves open are taken in turn from `filled`."""
  tokens = iter(filled)
  words = [next(tokens) if word == '{}' else TOKENS[word] for word in template.split()]
  return jnp.stack(jnp.broadcast_arrays(*words), -1)


def phrases(key: jax.Array, kinds: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
  """Prepositions and nouns [B, count], animals and places, but none of the `kinds` [B, 2]."""
  shape = len(kinds), count
  preposition_key, class_key, kind_key = jax.random.split(key, 3)
  preposition = jax.random.randint(preposition_key, shape, 0, len(PREPOSITIONS))
  is_place = jax.random.randint(class_key, shape, 0, 2)
  step = jax.random.randint(kind_key, shape, 1, KINDS)  # round the kinds, less than once
  other = (jnp.take_along_axis(kinds, is_place, 1) + step) % KINDS
  return TOKENS[PREPOSITIONS[0]] + preposition, NOUN + KINDS * is_place + other


def first_of(parts: jax.Array, count: jax.Array) -> jax.Array:  # [B, N, words], [B] -> [B, tokens]
  """The first `count` phrases of each row, and gaps in the place of the others."""
  kept = jnp.arange(parts.shape[1])[None, :, None] < count[:, None, None]
  return jnp.where(kept, parts, TOKENS[FILL]).reshape(len(parts), -1)


def joined(*parts: jax.Array) -> jax.Array:  # [B, tokens] each
  """Parts of a sentence as one, its gaps moved behind its end."""
  whole = jnp.concatenate(parts, 1)
  order = jnp.argsort(whole == TOKENS[FILL], axis=1, stable=True)
  return jnp.take_along_axis(whole, order, 1)


def pick(rows: jax.Array, place: jax.Array) -> jax.Array:  # [B, N], [B] -> [B]
  """One token of each row."""
  return jnp.take_along_axis(rows, place[:, None], 1)[:, 0]
