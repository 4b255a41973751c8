"""Automata against what they stand for: counting, arithmetic, permutations; and their answers."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.lab.tasks.automata import distributions
from experiments.lab.tasks.cycle_navigation import CycleNavigation
from experiments.lab.tasks.even_pairs import EvenPairs
from experiments.lab.tasks.modular_arithmetic import MODULUS, OPERATORS, ModularArithmetic
from experiments.lab.tasks.parity import Parity
from experiments.lab.tasks.word_problem import GENERATORS, WordProblem

LENGTH = 23  # of all words read here, so that each automaton is compiled once
MANY = settings(max_examples=50, deadline=None)


def parity(tokens):
  return tokens.count(1) % 2


def even_pairs(tokens):
  return sum(one != other for one, other in itertools.pairwise(tokens)) % 2


def cycle_navigation(tokens):
  return sum({0: -1, 1: 0, 2: 1}[token] for token in tokens) % 5


def modular_arithmetic(tokens):
  """The value as written: split at + and -, then at *."""
  text = ''.join(str(token) if token < MODULUS else OPERATORS[token - MODULUS] for token in tokens)
  total = 0
  for term in text.replace('-', '+-').split('+'):
    factors = [int(factor) for factor in term.removeprefix('-').split('*')]
    total += (-1 if term.startswith('-') else 1) * int(np.prod(factors))
  return total % MODULUS


def s5(tokens):
  """Things that are moved about, one permutation after the other."""
  elements = list(itertools.permutations(range(5)))
  things = range(5)
  for token in tokens:
    things = [elements[token][thing] for thing in things]
  return elements.index(tuple(things))


BY_HAND = [
  (Parity(LENGTH), parity),
  (EvenPairs(LENGTH), even_pairs),
  (CycleNavigation(LENGTH), cycle_navigation),
  (ModularArithmetic(LENGTH), modular_arithmetic),
  (WordProblem(LENGTH), s5),
]
TASKS = [task for task, _ in BY_HAND]


def numpy_batch(task, batch_size=256):
  """A batch, out of JAX."""
  return jax.tree.map(np.asarray, task.batch('train', 0, batch_size))


@pytest.mark.parametrize('task, by_hand', BY_HAND)
def test_automaton_computes_what_it_stands_for_after_every_token(task, by_hand):
  words = st.tuples(*(st.sampled_from(task.turns[t % len(task.turns)]) for t in range(LENGTH)))

  @MANY
  @given(words)
  def check(word):
    answers = task.machine.run(jnp.array([word]))[0].tolist()
    for position in task.asked:
      assert answers[position] == by_hand(word[: position + 1])

  check()


@pytest.mark.parametrize('task, by_hand', BY_HAND)
def test_automaton_does_not_lose_count_in_a_long_sequence(task, by_hand):
  source, target, weight = numpy_batch(task.at(1001), 2)
  for read, answer, asked in zip(source.tolist(), target, weight, strict=True):
    for position in (500, 1000):
      assert asked[position] and answer[position] == by_hand(tuple(read[: position + 1]))


@pytest.mark.parametrize('task', TASKS)
def test_an_answer_is_read_in_logarithmic_depth(task):
  """No loop over time, and two more table look-ups whenever the length doubles."""
  def lookups(length):
    text = str(jax.make_jaxpr(task.machine.run)(jnp.zeros((2, length), jnp.int32)))
    assert 'while' not in text and 'scan[' not in text
    return text.count('gather[')

  assert lookups(1024) - lookups(512) == lookups(512) - lookups(256) <= 2


@pytest.mark.parametrize('task', TASKS)
def test_transition_monoid_has_all_that_words_do(task):
  functions, letters, product = task.machine.monoid
  assert len(np.unique(functions, axis=0)) == len(functions)
  np.testing.assert_array_equal(functions[letters], task.machine.step.T)
  composed = np.stack([functions[:, then].T for then in functions])  # [first, state, then]
  np.testing.assert_array_equal(composed, np.swapaxes(functions[product], 1, 2))


def test_transition_monoids_have_their_known_sizes():
  assert [len(task.machine.monoid.functions) for task in TASKS] == [2, 4, 5, 129, 120]


# Where answers are asked for


ANY = st.sampled_from([Parity, EvenPairs, CycleNavigation, ModularArithmetic])


@MANY
@given(ANY, st.integers(3, 40), st.integers(1, 20), st.integers(1, 20))
def test_beyond_asks_for_each_answer_once(task_class, length, more, yet_more):
  near = task_class(length)
  extrapolation = near.beyond(length + more + 1)
  farthest = extrapolation.beyond(extrapolation.length + yet_more + 1)
  asked = np.concatenate([list(task.asked) for task in (near, extrapolation, farthest)])
  np.testing.assert_array_equal(asked, near.at(farthest.length).asked)
  assert extrapolation.asked[0] >= length
  assert farthest.asked[-1] < farthest.length


@pytest.mark.parametrize('task', TASKS)
def test_all_answers_are_asked_for_from_the_shortest_length_on(task):
  weight = numpy_batch(dataclasses.replace(task, shortest=8), 4).weight
  due = [float(t >= 7 and t % len(task.turns) == 0) for t in range(LENGTH)]
  np.testing.assert_array_equal(weight, np.array([due] * 4))


@pytest.mark.parametrize('task', TASKS)
def test_one_answer_is_asked_for_at_a_length_drawn_uniformly(task):
  once = dataclasses.replace(task, shortest=8, answers='last')
  weight = numpy_batch(once, 2000).weight
  assert np.all(weight.sum(1) == 1)
  seen = weight.sum(0)
  assert set(np.flatnonzero(seen)) == set(once.asked)
  expected = 2000 / len(once.asked)
  assert np.all(np.abs(seen[list(once.asked)] - expected) < 5 * np.sqrt(expected))


@pytest.mark.parametrize('task', TASKS)
def test_tokens_are_uniform_over_what_may_stand_there(task):
  source = numpy_batch(task, 1000).source
  for turn, letters in enumerate(task.turns):
    tokens = source[:, turn :: len(task.turns)]
    seen = np.bincount(tokens.ravel(), minlength=task.inputs.size)
    expected = tokens.size / len(letters)
    assert np.all(np.abs(seen[list(letters)] - expected) < 5 * np.sqrt(expected))
    assert seen.sum() == seen[list(letters)].sum()


# Chance


@pytest.mark.parametrize('task', [
  Parity(6), EvenPairs(6), CycleNavigation(5), ModularArithmetic(5),
  WordProblem(6, alphabet='generators'), WordProblem(5, group='z60', alphabet='generators'),
], ids=repr)
def test_chance_is_that_of_the_likeliest_answer_over_all_sequences(task):
  turns = [task.turns[t % len(task.turns)] for t in range(task.length)]
  answers = np.asarray(task.machine.run(jnp.array(list(itertools.product(*turns)))))
  frequencies = np.stack([np.mean(answers == answer, 0) for answer in range(task.outputs.size)], 1)
  np.testing.assert_allclose(distributions(task), frequencies, atol=1e-12)
  assert task.chance == pytest.approx(frequencies.max(1)[list(task.asked)].mean())


def test_chance_of_uniform_answers_is_one_over_their_number():
  assert Parity(40).chance == Parity(500, shortest=41).chance == 1 / 2
  assert WordProblem(5).chance == pytest.approx(1 / 120)
  assert WordProblem(5, group='a5').chance == pytest.approx(1 / 60)


# Groups


def order_of_derived_series(group):
  """Orders of the group, of the group that its commutators make, and so on."""
  step = WordProblem(2, group=group).machine.step  # 0 is the identity
  inverse = np.argmax(step == 0, 1)
  members, orders = set(range(len(step))), []
  while len(members) not in orders:
    orders.append(len(members))
    made = {step[step[inverse[a], inverse[b]], step[a, b]] for a in members for b in members}
    members, before = made, set()
    while members != before:
      before, members = members, members | {step[a, b] for a in members for b in made}
  return orders


def test_groups_are_those_that_their_names_say():
  assert {group: order_of_derived_series(group) for group in GENERATORS} == {
    's5': [120, 60], 'a5': [60], 'a4xz5': [60, 4, 1], 'z60': [60, 1]}


@pytest.mark.parametrize('group', GENERATORS)
def test_generators_make_all_elements(group):
  """And as tokens they are what they are as elements."""
  generators = WordProblem(2, group=group, alphabet='generators').machine.step
  elements = WordProblem(2, group=group).machine.step
  assert generators.shape == (len(elements), len(GENERATORS[group]))
  np.testing.assert_array_equal(generators, elements[:, generators[0]])
  reached, before = {0}, set()
  while reached != before:
    before, reached = reached, reached | {to for at in reached for to in generators[at]}
  assert len(reached) == len(elements)


# Settings that make no sense


BAD = [
  (Parity, {'answers': 'first'}, 'all, last'),
  (Parity, {'length': 0}, 'length=0'),
  (Parity, {'shortest': 0}, '1 to 40'),
  (Parity, {'length': 10, 'shortest': 11}, '1 to 10'),
  (EvenPairs, {'length': 1}, 'length=1'),
  (ModularArithmetic, {'length': 2, 'shortest': 2}, 'shortest=2'),
  (WordProblem, {'group': 's4'}, 's5, a5, a4xz5, z60'),
  (WordProblem, {'alphabet': 'swaps'}, 'elements, generators'),
]


@pytest.mark.parametrize('task_class, bad, hint', BAD)
def test_bad_settings_are_refused_in_one_line(task_class, bad, hint):
  with pytest.raises(ValueError, match=hint) as refusal:
    task_class(**bad)
  assert '\n' not in str(refusal.value)


def test_a_task_of_any_length_costs_nothing_until_it_is_asked():
  assert ModularArithmetic(10**12, shortest=10**11).asked == range(10**11, 10**12, 2)


def test_what_is_not_beyond_is_refused():
  with pytest.raises(ValueError, match='shortest=41'):
    Parity(40).beyond(40)
