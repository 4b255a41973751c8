"""Tests of the automaton tasks against direct computations, and of their scored outputs."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.lab.tasks.automata import output_distributions
from experiments.lab.tasks.cycle_navigation import CycleNavigation
from experiments.lab.tasks.even_pairs import EvenPairs
from experiments.lab.tasks.modular_arithmetic import MODULUS, OPERATORS, ModularArithmetic
from experiments.lab.tasks.parity import Parity
from experiments.lab.tasks.word_problem import GENERATORS, WordProblem

LENGTH = 23  # one length for all words, so that each automaton is compiled once
MANY = settings(max_examples=50, deadline=None)


def count_parity(tokens):
  return tokens.count(1) % 2


def change_parity(tokens):
  return sum(first != second for first, second in itertools.pairwise(tokens)) % 2


def sum_moves(tokens):
  return sum({0: -1, 1: 0, 2: 1}[token] for token in tokens) % 5


def evaluate_expression(tokens):
  """The value of an expression, whose terms are split at + and - and whose factors at *."""
  text = ''.join(str(token) if token < MODULUS else OPERATORS[token - MODULUS] for token in tokens)
  total = 0
  for term in text.replace('-', '+-').split('+'):
    factors = [int(factor) for factor in term.removeprefix('-').split('*')]
    total += (-1 if term.startswith('-') else 1) * int(np.prod(factors))
  return total % MODULUS


def compose_permutations(tokens):
  """The index of the composition of permutations of five items, in the order of the tokens."""
  elements = list(itertools.permutations(range(5)))
  images = range(5)
  for token in tokens:
    images = [elements[token][image] for image in images]
  return elements.index(tuple(images))


REFERENCES = [
  (Parity(LENGTH), count_parity),
  (EvenPairs(LENGTH), change_parity),
  (CycleNavigation(LENGTH), sum_moves),
  (ModularArithmetic(LENGTH), evaluate_expression),
  (WordProblem(LENGTH), compose_permutations),
]
TASKS = [task for task, _ in REFERENCES]


def compute_numpy_batch(task, batch_size=256):
  """A training batch as NumPy arrays."""
  return jax.tree.map(np.asarray, task.batch('train', 0, batch_size))


@pytest.mark.parametrize('task, reference', REFERENCES)
def test_automaton_outputs_equal_a_direct_computation(task, reference):
  ranges = task.token_id_ranges
  words = st.tuples(*(st.sampled_from(ranges[t % len(ranges)]) for t in range(LENGTH)))

  @MANY
  @given(words)
  def check(word):
    answers = task.automaton.compute_outputs(jnp.array([word]))[0].tolist()
    for position in task.scored_positions:
      assert answers[position] == reference(word[: position + 1])

  check()


@pytest.mark.parametrize('task, reference', REFERENCES)
def test_automaton_outputs_are_correct_in_long_sequences(task, reference):
  source, target, weight = compute_numpy_batch(task.with_dependency_distance(1001), 2)
  for tokens, outputs, scored in zip(source.tolist(), target, weight, strict=True):
    for position in (500, 1000):
      assert scored[position] and outputs[position] == reference(tuple(tokens[: position + 1]))


@pytest.mark.parametrize('task', TASKS)
def test_automaton_runs_in_logarithmic_depth(task):
  """The program has no loop over time and two more gathers whenever the length doubles."""
  def count_gathers(length):
    text = str(jax.make_jaxpr(task.automaton.compute_outputs)(jnp.zeros((2, length), jnp.int32)))
    assert 'while' not in text and 'scan[' not in text
    return text.count('gather[')

  assert count_gathers(1024) - count_gathers(512) == count_gathers(512) - count_gathers(256) <= 2


@pytest.mark.parametrize('task', TASKS)
def test_transition_monoid_is_closed_under_composition(task):
  functions, letters, product = task.automaton.transition_monoid
  assert len(np.unique(functions, axis=0)) == len(functions)
  np.testing.assert_array_equal(functions[letters], task.automaton.transition.T)
  composed = np.stack([functions[:, second].T for second in functions])  # [first, state, second]
  np.testing.assert_array_equal(composed, np.swapaxes(functions[product], 1, 2))


def test_transition_monoids_have_their_known_sizes():
  assert [len(task.automaton.transition_monoid.functions) for task in TASKS] == [2, 4, 5, 129, 120]


# Scored positions


ANY = st.sampled_from([Parity, EvenPairs, CycleNavigation, ModularArithmetic])


@MANY
@given(ANY, st.integers(3, 40), st.integers(1, 20), st.integers(1, 20))
def test_extrapolation_tasks_score_each_position_once(task_class, length, more, more_again):
  near = task_class(length)
  extrapolation = near.extrapolation_task(length + more + 1)
  farthest = extrapolation.extrapolation_task(extrapolation.length + more_again + 1)
  scored = np.concatenate([list(task.scored_positions) for task in (near, extrapolation, farthest)])
  longest = near.with_dependency_distance(farthest.length)
  np.testing.assert_array_equal(scored, longest.scored_positions)
  assert extrapolation.scored_positions[0] >= length
  assert farthest.scored_positions[-1] < farthest.length


@pytest.mark.parametrize('task', TASKS)
def test_all_outputs_from_the_shortest_length_on_are_scored(task):
  weight = compute_numpy_batch(dataclasses.replace(task, shortest=8), 4).weight
  scored = [float(t >= 7 and t % len(task.token_id_ranges) == 0) for t in range(LENGTH)]
  np.testing.assert_array_equal(weight, np.array([scored] * 4))


@pytest.mark.parametrize('task', TASKS)
def test_one_output_is_scored_at_a_uniformly_random_length(task):
  once = dataclasses.replace(task, shortest=8, answers='last')
  weight = compute_numpy_batch(once, 2000).weight
  assert np.all(weight.sum(1) == 1)
  counts = weight.sum(0)
  assert set(np.flatnonzero(counts)) == set(once.scored_positions)
  expected = 2000 / len(once.scored_positions)
  assert np.all(np.abs(counts[list(once.scored_positions)] - expected) < 5 * np.sqrt(expected))


@pytest.mark.parametrize('task', TASKS)
def test_tokens_are_uniform_over_the_allowed_tokens(task):
  source = compute_numpy_batch(task, 1000).source
  for phase, letters in enumerate(task.token_id_ranges):
    tokens = source[:, phase :: len(task.token_id_ranges)]
    counts = np.bincount(tokens.ravel(), minlength=task.input_space.size)
    expected = tokens.size / len(letters)
    assert np.all(np.abs(counts[list(letters)] - expected) < 5 * np.sqrt(expected))
    assert counts.sum() == counts[list(letters)].sum()


# Chance


@pytest.mark.parametrize('task', [
  Parity(6), EvenPairs(6), CycleNavigation(5), ModularArithmetic(5),
  WordProblem(6, alphabet='generators'), WordProblem(5, group='z60', alphabet='generators'),
], ids=repr)
def test_chance_is_the_frequency_of_the_most_likely_output(task):
  ranges = [task.token_id_ranges[t % len(task.token_id_ranges)] for t in range(task.length)]
  outputs = np.asarray(task.automaton.compute_outputs(jnp.array(list(itertools.product(*ranges)))))
  frequencies = np.stack(
    [np.mean(outputs == output, 0) for output in range(task.output_space.size)], 1
  )
  np.testing.assert_allclose(output_distributions(task), frequencies, atol=1e-12)
  assert task.chance_level == pytest.approx(frequencies.max(1)[list(task.scored_positions)].mean())


def test_chance_of_uniform_outputs_is_one_over_their_number():
  assert Parity(40).chance_level == Parity(500, shortest=41).chance_level == 1 / 2
  assert WordProblem(5).chance_level == pytest.approx(1 / 120)
  assert WordProblem(5, group='a5').chance_level == pytest.approx(1 / 60)


# Groups


def orders_of_derived_series(group):
  """The orders of the group, of its commutator subgroup, and of the further derived subgroups."""
  step = WordProblem(2, group=group).automaton.transition  # 0 is the identity
  inverse = np.argmax(step == 0, 1)
  members, orders = set(range(len(step))), []
  while len(members) not in orders:
    orders.append(len(members))
    commutators = {step[step[inverse[a], inverse[b]], step[a, b]] for a in members for b in members}
    members, previous = commutators, set()
    while members != previous:
      previous, members = members, members | {step[a, b] for a in members for b in commutators}
  return orders


def test_groups_have_the_derived_series_of_their_names():
  assert {group: orders_of_derived_series(group) for group in GENERATORS} == {
    's5': [120, 60], 'a5': [60], 'a4xz5': [60, 4, 1], 'z60': [60, 1]}


@pytest.mark.parametrize('group', GENERATORS)
def test_generators_generate_the_whole_group(group):
  """The tokens of the two alphabets denote the same group elements."""
  generators = WordProblem(2, group=group, alphabet='generators').automaton.transition
  elements = WordProblem(2, group=group).automaton.transition
  assert generators.shape == (len(elements), len(GENERATORS[group]))
  np.testing.assert_array_equal(generators, elements[:, generators[0]])
  reached, previous = {0}, set()
  while reached != previous:
    neighbours = {neighbour for element in reached for neighbour in generators[element]}
    previous, reached = reached, reached | neighbours
  assert len(reached) == len(elements)


# Invalid settings


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
def test_invalid_automaton_settings_raise_one_line_errors(task_class, bad, hint):
  with pytest.raises(ValueError, match=hint) as refusal:
    task_class(**bad)
  assert '\n' not in str(refusal.value)


def test_scored_positions_of_very_long_tasks_cost_nothing():
  assert ModularArithmetic(10**12, shortest=10**11).scored_positions == range(10**11, 10**12, 2)


def test_extrapolation_to_the_same_length_raises_an_error():
  with pytest.raises(ValueError, match='shortest=41'):
    Parity(40).extrapolation_task(40)
