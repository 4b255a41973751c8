"""Pronoun resolution, in which a model predicts the noun that the pronoun *it* refers to.

  the animal did n't cross the street because it was too tired .      it = the animal
  the animal did n't cross the street because it was too wide .       it = the street

Subject and object are an animal and a location, in either order. The adjective after the pronoun
suits animals alone or locations alone, so that the antecedent depends on both clauses. Distractor
phrases with other animals and locations precede the first clause and separate the two clauses. The
antecedent is therefore neither the nearest noun that suits the adjective, nor the first such noun,
nor the noun at a fixed position of the sentence.

Winograd 1972, "Understanding natural language"; Levesque, Davis and Morgenstern 2012, "The Winograd
schema challenge"; Vaswani et al. 2017, "Attention is all you need", for the two sentences above and
for heads that attend to an antecedent (figure 4).
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from experiments.lab.tasks.task import Batch, Space, Task, one_hot_logits, uniform_logits

ANIMALS = ('animal', 'dog', 'cat', 'horse', 'cow', 'goat', 'fox', 'wolf', 'bear', 'deer', 'rabbit',
           'mouse')
PLACES = ('street', 'road', 'river', 'bridge', 'path', 'tunnel', 'valley', 'field', 'canal', 'lake',
          'forest', 'trail')
DONE_BY_ANIMALS = ('cross', 'enter', 'leave', 'reach', 'follow', 'explore', 'use', 'like')
DONE_BY_PLACES = ('please', 'attract', 'suit', 'impress', 'help', 'interest', 'satisfy', 'calm')
OF_ANIMALS = ('tired', 'hungry', 'thirsty', 'sleepy', 'scared', 'nervous', 'lazy', 'angry')
OF_PLACES = ('wide', 'narrow', 'steep', 'deep', 'broad', 'winding', 'rocky', 'crowded')
PREPOSITIONS = ('near', 'behind', 'beside', 'beyond', 'past', 'opposite', 'without', 'unlike')
FILL = '_'  # padding after the end of a sentence

WORDS = (FILL, 'the', 'did', "n't", 'because', 'it', 'was', 'too', ',', '.', *PREPOSITIONS,
         *ANIMALS, *PLACES, *DONE_BY_ANIMALS, *DONE_BY_PLACES, *OF_ANIMALS, *OF_PLACES)
TOKENS = {word: token for token, word in enumerate(WORDS)}
KINDS = len(ANIMALS)  # number of animals, and of locations
VARIANTS = len(OF_ANIMALS)  # number of adjectives, and of verbs, of each of the two classes
NOUN, VERB, ADJECTIVE = (TOKENS[group[0]] for group in (ANIMALS, DONE_BY_ANIMALS, OF_ANIMALS))

PHRASE, FIRST_CLAUSE, SECOND_CLAUSE = 4, 7, 6  # lengths in words, commas and full stop included
PREFIXES = 2  # the greatest number of phrases before the first clause
BEFORE_VERB, AFTER_VERB = 3, 2  # distances from subject to verb, and from verb to object


@dataclasses.dataclass(frozen=True)
class Pronouns(Task):
  """Prediction of the antecedent of *it*, scored at the full stop of a two-clause sentence.

  The clauses are separated by `fewest` to `words` words, in phrases of 4 such as `, near the dog`.
  Of 24 nouns, 12 are animals and 12 are locations. Two examples (0 is padding; `.` has no weight):

    pronouns(words=4)
      source  1 18 2 3 42 1 30 8 10 1 19 4 5 6 7 58  9 0 0 0 0 0 0 0 0
      target  .  . . .  . .  . .  . .  . . . . .  . 18 . . . . . . . .

    pronouns(words=8, fewest=8)
      source  11 1 32 8 1 30 2 3 50 1 18 8 14 1 39 8 10 1 19 4 5 6 7 66  9 0 0 0 0
      target   . .  . . .  . . .  . .  . .  . .  . .  . .  . . . . .  . 30 . . . .

  The first is `the animal did n't cross the street , near the dog because it was too tired .` The
  second, whose target is the street, is `behind the river , the street did n't please the animal ,
  past the lake , near the dog because it was too wide .`

  There is no published setting. Only the two sentences of the module are published.
  """

  words: int = 16
  fewest: int = 0

  family: ClassVar[str] = 'pronouns'
  axis: ClassVar[str] = 'words between clauses'
  solved: ClassVar[float] = 0.99

  def __post_init__(self):
    if self.words < PHRASE or self.words % PHRASE:
      raise ValueError(
        f'words={self.words}: the number must be a positive multiple of 4, the length of a phrase'
      )
    if self.fewest % PHRASE or not 0 <= self.fewest <= self.words:
      raise ValueError(
        f'fewest={self.fewest}: the number must be a multiple of 4 from 0 to {self.words}'
      )

  @property
  def input_space(self) -> Space:
    """The vocabulary, with one token for each word in WORDS and token 0 for padding."""
    return Space('tokens', len(WORDS))

  @property
  def dependency_distance(self) -> int:
    """The maximum number of words between the two clauses."""
    return self.words

  @property
  def length(self) -> int:
    """The number of tokens of a padded sentence."""
    return PREFIXES * PHRASE + FIRST_CLAUSE + self.words + SECOND_CLAUSE

  @property
  def chance_level(self) -> float:
    """The accuracy of a uniform random choice among all nouns."""
    return 1 / (2 * KINDS)

  @property
  def num_scored_positions(self) -> int:
    """One, the full stop."""
    return 1

  def with_dependency_distance(self, distance: int) -> 'Pronouns':
    """A copy of this task with another maximum number of words between the clauses."""
    return dataclasses.replace(self, words=distance, fewest=min(self.fewest, distance))

  def extrapolation_task(self, dependency_distance: int) -> 'Pronouns':
    """A copy of this task with more words between the clauses than the original maximum."""
    return dataclasses.replace(self, words=dependency_distance, fewest=self.words + PHRASE)

  def batch(self, split: str, index, batch_size: int) -> Batch:
    """Sentences of two random clauses with random numbers of distractor phrases."""
    *keys, phrase_key, before_key, between_key = jax.random.split(self.batch_key(split, index), 8)

    def sample_integers(key, stop, *shape):
      return jax.random.randint(key, (batch_size, *shape), 0, stop)

    kinds = sample_integers(keys[0], KINDS, 2)  # index of the animal, index of the location
    nouns = NOUN + KINDS * jnp.arange(2)[None, :] + kinds
    # Word class 0 contains the words about animals, and word class 1 the words about locations.
    subject_class, adjective_class = sample_integers(keys[1], 2), sample_integers(keys[2], 2)
    classes = subject_class, 1 - subject_class, adjective_class
    subject, verb_object, answer = (select_tokens(nouns, noun_class) for noun_class in classes)
    verb = VERB + VARIANTS * subject_class + sample_integers(keys[3], VARIANTS)
    adjective = ADJECTIVE + VARIANTS * adjective_class + sample_integers(keys[4], VARIANTS)

    num_phrases = PREFIXES + self.words // PHRASE
    preposition, noun = sample_distractor_phrases(phrase_key, kinds, num_phrases)
    before = fill_template('{} the {} ,', preposition[:, :PREFIXES], noun[:, :PREFIXES])
    between = fill_template(', {} the {}', preposition[:, PREFIXES:], noun[:, PREFIXES:])
    num_between = jax.random.randint(
      between_key, (batch_size,), self.fewest // PHRASE, self.words // PHRASE + 1
    )
    source = concatenate_and_move_padding_to_end([
      replace_excess_phrases_by_padding(before, sample_integers(before_key, PREFIXES + 1)),
      fill_template("the {} did n't {} the {}", subject, verb, verb_object),
      replace_excess_phrases_by_padding(between, num_between),
      fill_template('because it was too {} .', adjective),
    ])
    scored = source == TOKENS['.']
    return Batch(source, jnp.where(scored, answer[:, None], 0), scored.astype(jnp.float32))

  def positions_for_attention_analysis(self, source: jax.Array) -> dict[str, jax.Array]:
    """The positions [B] of the pronoun, its antecedent and the full stop in the source [B, T]."""
    verb = jnp.argmax((source >= VERB) & (source < ADJECTIVE), 1)
    adjective = jnp.max(jnp.where(source >= ADJECTIVE, source, 0), 1)
    subject_is_place = select_tokens(source, verb - BEFORE_VERB) >= NOUN + KINDS
    is_subject = subject_is_place == (adjective >= ADJECTIVE + VARIANTS)
    return {
      'antecedent': jnp.where(is_subject, verb - BEFORE_VERB, verb + AFTER_VERB),
      'pronoun': jnp.argmax(source == TOKENS['it'], 1),
      'prediction': jnp.argmax(source == TOKENS['.'], 1),
    }

  def oracle_outputs(self, source: jax.Array) -> jax.Array:
    """Logits that predict the pronoun's antecedent from the adjective and the first clause."""
    answer = select_tokens(source, self.positions_for_attention_analysis(source)['antecedent'])
    return one_hot_logits(jnp.broadcast_to(answer[:, None], source.shape), self.output_space.size)

  def baseline_outputs(self, source: jax.Array) -> jax.Array:
    """Logits of the uniform distribution over all nouns."""
    token = jnp.arange(self.output_space.size)
    is_noun = (token >= NOUN) & (token < VERB)
    return jnp.broadcast_to(uniform_logits(is_noun), (*source.shape, self.output_space.size))

  def detokenize(self, tokens) -> str:
    """The text of one row of tokens, without padding."""
    return ' '.join(WORDS[int(token)] for token in tokens if int(token) != TOKENS[FILL])


def fill_template(template: str, *fillers: jax.Array) -> jax.Array:
  """Tokenises the words of a template, and replaces its placeholders `{}` by given tokens.

  The replacement tokens are [...], and the result is [..., words].
  """
  tokens = iter(fillers)
  words = [next(tokens) if word == '{}' else TOKENS[word] for word in template.split()]
  return jnp.stack(jnp.broadcast_arrays(*words), -1)


def sample_distractor_phrases(
  key: jax.Array, excluded_nouns: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
  """Samples prepositions and nouns for distractor phrases, without the nouns in the clauses.

  Args:
    key: random key.
    excluded_nouns: [B, 2] indices of the animal and the location in the clauses of each sentence.
    count: number of phrases per sentence.

  Returns:
    The prepositions and the nouns, both tokens [B, count].

  """
  shape = len(excluded_nouns), count
  preposition_key, class_key, kind_key = jax.random.split(key, 3)
  preposition = jax.random.randint(preposition_key, shape, 0, len(PREPOSITIONS))
  is_place = jax.random.randint(class_key, shape, 0, 2)
  offset = jax.random.randint(kind_key, shape, 1, KINDS)  # nonzero modulo KINDS
  other_kind = (jnp.take_along_axis(excluded_nouns, is_place, 1) + offset) % KINDS
  return TOKENS[PREPOSITIONS[0]] + preposition, NOUN + KINDS * is_place + other_kind


def replace_excess_phrases_by_padding(phrases: jax.Array, num_kept: jax.Array) -> jax.Array:
  """Keeps the first `num_kept` phrases of each sentence, and replaces all others by padding.

  The phrases are [B, N, words], `num_kept` is [B], and the result is [B, N * words].
  """
  is_kept = jnp.arange(phrases.shape[1])[None, :, None] < num_kept[:, None, None]
  return jnp.where(is_kept, phrases, TOKENS[FILL]).reshape(len(phrases), -1)


def concatenate_and_move_padding_to_end(sentence_parts: Sequence[jax.Array]) -> jax.Array:
  """Concatenates the parts [B, tokens] of each sentence, and moves all padding to the end."""
  sentence = jnp.concatenate(sentence_parts, 1)
  order = jnp.argsort(sentence == TOKENS[FILL], axis=1, stable=True)
  return jnp.take_along_axis(sentence, order, 1)


def select_tokens(rows: jax.Array, positions: jax.Array) -> jax.Array:
  """The tokens [B] at the given positions [B] of the rows [B, N]."""
  return jnp.take_along_axis(rows, positions[:, None], 1)[:, 0]
