"""Sampling: what can be drawn, how often it is, and when nothing is left to chance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transformer.token_table import PLACES, TINY, over_table, table_of
from transformer import decoding

KEY, DRAWS = jax.random.key(5), 4000


def draws(table, **options):
  """What is drawn first, so many times."""
  how = functools.partial(decoding.sample, key=KEY, **options)
  found = over_table(how, table, np.full(DRAWS, 1), ())
  return np.asarray(found.tokens)[:, 0]


@pytest.mark.parametrize('options, weights', [
  ({}, [0.5, 0.2, 0.3]),
  ({'temperature': 0.5}, [0.25, 0.04, 0.09]),
  ({'temperature': 2.0, 'top_k': 2}, [0.5**0.5, 0, 0.3**0.5]),
  ({'top_p': 0.7}, [0.5, 0, 0.3]),
  ({'top_p': 0.4}, [1, 0, 0]),
  ({'top_k': 2, 'top_p': 0.6}, [1, 0, 0]),  # 5 of 8 of what is left
], ids=str)
def test_draws_are_as_frequent_as_the_softmax_says(options, weights):
  table = np.zeros((2 * TINY**PLACES, TINY), np.float32)
  table[1] = np.log([0.5, 0.2, 0.3]) + 7
  frequent = np.bincount(draws(table, **options), minlength=TINY) / DRAWS
  expected = np.array(weights) / np.sum(weights)
  assert (frequent[expected == 0] == 0).all()
  np.testing.assert_allclose(frequent, expected, atol=4 * 0.5 / DRAWS**0.5)


@settings(deadline=None, max_examples=40)
@given(
  seed=st.integers(0, 10**6), top_k=st.sampled_from([0, 1, 3, 5]),
  top_p=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
)
def test_what_can_be_drawn_is_the_smallest_set_that_reaches_the_mass(seed, top_k, top_p):
  logits = np.random.default_rng(seed).normal(0, 2, (3, 5)).round(1).astype(np.float32) + 0
  left, tokens = map(np.asarray, decoding.narrowed(jnp.array(logits), top_k, top_p))
  for row in range(3):
    order = np.argsort(-logits[row], kind='stable')[: top_k or 5]  # equal ones: the lower first
    mass = np.exp(logits[row][order].astype(np.float64))
    reached = np.cumsum(mass / mass.sum())
    size = np.searchsorted(reached, top_p) + 1 if top_p < 1 else len(order)
    np.testing.assert_array_equal(tokens[row], order)
    np.testing.assert_array_equal(left[row, :size], logits[row][order[:size]])
    assert (left[row, size:] == -np.inf).all()


@pytest.mark.parametrize('options', [
  {'top_k': 1}, {'top_p': 1e-6}, {'temperature': 0.0}, {'temperature': 1e-40}, *(
    {'temperature': t, 'top_k': 2} for t in (5e-324, 1e-38, 1e-30))], ids=str)
def test_sampling_that_leaves_no_choice_is_greedy(options):
  limits, table = np.full(3, PLACES), table_of(1)
  how = functools.partial(decoding.sample, key=KEY, **options)
  found, expected = over_table(how, table, limits, ()), over_table(
    decoding.greedy, table, limits, ())
  jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_tokens_of_a_sequence_are_drawn_independently():
  tokens = over_table(
    functools.partial(decoding.sample, key=KEY), np.zeros((2 * TINY**PLACES, TINY), np.float32),
    np.full(DRAWS, 2), ()).tokens
  both = np.asarray(tokens[tokens[:, 0] != TINY - 1, :2])
  pairs = np.bincount(both[:, 0] * TINY + both[:, 1], minlength=2 * TINY) / len(both)
  np.testing.assert_allclose(pairs, 1 / 6, atol=0.03)


@pytest.mark.parametrize('temperature', [1e36, 1e38, 1e300, float('inf')])
def test_at_a_high_temperature_what_is_allowed_is_drawn_alike(temperature):
  table = np.zeros((2 * TINY**PLACES, TINY), np.float32)
  table[1] = [50.0, -np.inf, -30.0]
  for options in ({}, {'top_k': 2, 'top_p': 0.99}):
    frequent = np.bincount(draws(table, temperature=temperature, **options), minlength=TINY)
    assert frequent[1] == 0
    np.testing.assert_allclose(frequent / DRAWS, [0.5, 0, 0.5], atol=4 * 0.5 / DRAWS**0.5)
