"""Beam search matches exhaustive search and a reference implementation with Python lists."""

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transformer.token_table import (
  END_TOKEN,
  MAX_LENGTH,
  NUM_TOKENS,
  TABLE_SHAPE,
  decode_table,
  random_table,
)
from transformer import decoding


def log_probabilities(table, prefix):
  """The log p of each next token after a prefix, in float64."""
  index = functools.reduce(lambda index, token: index * NUM_TOKENS + token, prefix, 1)
  row = table[index].astype(np.float64)
  return row - np.log(np.exp(row).sum())


def normalized_score(table, tokens, alpha):
  log_p = sum(log_probabilities(table, tokens[:n])[token] for n, token in enumerate(tokens))
  return log_p / ((5 + len(tokens)) / 6) ** alpha


def pad_sequences(sequences):
  return [[*tokens, *[-1] * (MAX_LENGTH - len(tokens))] for tokens in sequences]


def is_complete(tokens, limit):
  return (len(tokens) == limit or tokens[-1] == END_TOKEN) and END_TOKEN not in tokens[:-1]


@pytest.mark.parametrize('alpha, num_return_sequences', [(0.0, 24), (0.6, 24), (1.0, 24), (0.6, 1)])
@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_a_wide_beam_matches_exhaustive_search(alpha, num_return_sequences, seed):
  table, limits = random_table(seed), np.array([2, MAX_LENGTH])
  options = {
    'beam_size': 24, 'length_penalty': alpha, 'num_return_sequences': num_return_sequences}
  hypotheses = decode_table(decoding.beam_search, table, limits, tuple(options.items()))
  for row, limit in enumerate(limits):
    sequences = [
      tokens for size in range(1, limit + 1)
      for tokens in itertools.product(range(NUM_TOKENS), repeat=size) if is_complete(tokens, limit)
    ]
    sequences.sort(key=lambda tokens: -normalized_score(table, tokens, alpha))
    expected = sequences[:num_return_sequences]
    expected_scores = [normalized_score(table, tokens, alpha) for tokens in expected]
    count = len(expected)
    np.testing.assert_allclose(hypotheses.scores[row, :count], expected_scores, atol=1e-5)
    np.testing.assert_array_equal(hypotheses.tokens[row, :count], pad_sequences(expected))
    np.testing.assert_array_equal(hypotheses.scores[row, count:], -np.inf)
    np.testing.assert_array_equal(hypotheses.lengths[row, count:], 0)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_a_beam_of_one_equals_greedy_search(seed):
  table, limits = random_table(seed), np.array([1, 3, MAX_LENGTH])
  options = ('beam_size', 1), ('length_penalty', 1.0)
  hypotheses = decode_table(decoding.beam_search, table, limits, options)
  expected = decode_table(decoding.greedy_search, table, limits, ())
  np.testing.assert_array_equal(hypotheses.tokens[:, 0], expected.tokens)
  np.testing.assert_array_equal(hypotheses.lengths[:, 0], expected.lengths)
  assert hypotheses.steps == expected.steps


def reference_beam_search(table, limit, beam_size, alpha, num_return_sequences):
  """Returns the hypotheses of a beam search over Python lists, and its number of steps."""
  beam, complete, steps = [()], [], 0

  def score(tokens):
    return normalized_score(table, tokens, alpha)

  while beam:
    steps += 1
    extensions = [(*tokens, token) for tokens in beam for token in range(NUM_TOKENS)]
    extensions.sort(key=lambda tokens: -normalized_score(table, tokens, 0))
    extensions = extensions[:beam_size]
    complete += [tokens for tokens in extensions if is_complete(tokens, limit)]
    complete = sorted(complete, key=lambda tokens: -score(tokens))[:num_return_sequences]
    beam = [tokens for tokens in extensions if not is_complete(tokens, limit)]
    best = max((normalized_score(table, tokens, 0) for tokens in beam), default=-np.inf)
    bound = best / ((5 + limit) / 6) ** alpha
    if len(complete) == num_return_sequences and bound <= score(complete[-1]):
      break
  return complete, steps


@pytest.mark.parametrize('options', [
  {'beam_size': 2, 'length_penalty': 0.6, 'num_return_sequences': 1},
  {'beam_size': 2, 'length_penalty': 1.0, 'num_return_sequences': 2},
  {'beam_size': 4, 'length_penalty': 0.0, 'num_return_sequences': 2},
], ids=str)
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), limit=st.integers(1, MAX_LENGTH))
def test_beam_search_matches_the_reference_algorithm_and_its_steps(options, seed, limit):
  table = random_table(seed)
  hypotheses = decode_table(
    decoding.beam_search, table, np.array([limit]), tuple(options.items()))
  expected, steps = reference_beam_search(table, limit, *options.values())
  np.testing.assert_array_equal(hypotheses.tokens[0, : len(expected)], pad_sequences(expected))
  assert hypotheses.steps == steps
  assert (hypotheses.scores[0, len(expected) :] == -np.inf).all()


def test_a_longer_hypothesis_can_win_through_the_length_penalty():
  """At its limit it has -0.8 / 1.5, which is above the score of -0.69 of an immediate end."""
  table = np.zeros(TABLE_SHAPE, np.float32)
  table[:, 0] = 30
  table[1] = np.log([0.45, 0.05, 0.5])
  for num_returned, limit, expected in ((1, MAX_LENGTH, [0] * MAX_LENGTH), (2, 1, [END_TOKEN])):
    options = {
      'beam_size': 2, 'length_penalty': 1.0, 'num_return_sequences': num_returned}
    hypotheses = decode_table(
      decoding.beam_search, table, np.array([limit]), tuple(options.items()))
    np.testing.assert_array_equal(hypotheses.tokens[0, 0], pad_sequences([expected])[0])
