"""Sampling draws the allowed tokens with the frequencies of the softmax."""

import functools

import jax
import jax.numpy as jnp
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

KEY, DRAWS = jax.random.key(5), 4000


def first_tokens(table, **options):
  """The first tokens [DRAWS] of sampled sequences."""
  search = functools.partial(decoding.sample, key=KEY, **options)
  output = decode_table(search, table, np.full(DRAWS, 1), ())
  return np.asarray(output.tokens)[:, 0]


@pytest.mark.parametrize('options, weights', [
  ({}, [0.5, 0.2, 0.3]),
  ({'temperature': 0.5}, [0.25, 0.04, 0.09]),
  ({'temperature': 2.0, 'top_k': 2}, [0.5**0.5, 0, 0.3**0.5]),
  ({'top_p': 0.7}, [0.5, 0, 0.3]),
  ({'top_p': 0.4}, [1, 0, 0]),
  ({'top_k': 2, 'top_p': 0.6}, [1, 0, 0]),  # 5 / 8 of the mass of two tokens
], ids=str)
def test_frequencies_of_samples_match_the_softmax(options, weights):
  table = np.zeros(TABLE_SHAPE, np.float32)
  table[1] = np.log([0.5, 0.2, 0.3]) + 7
  frequencies = np.bincount(first_tokens(table, **options), minlength=NUM_TOKENS) / DRAWS
  expected = np.array(weights) / np.sum(weights)
  assert (frequencies[expected == 0] == 0).all()
  np.testing.assert_allclose(frequencies, expected, atol=4 * 0.5 / DRAWS**0.5)


@settings(deadline=None, max_examples=40)
@given(
  seed=st.integers(0, 10**6), top_k=st.sampled_from([0, 1, 3, 5]),
  top_p=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
)
def test_top_p_keeps_the_smallest_set_with_the_mass(seed, top_k, top_p):
  logits = np.random.default_rng(seed).normal(0, 2, (3, 5)).round(1).astype(np.float32) + 0
  filtered, tokens = map(np.asarray, decoding.filter_top_k_top_p(jnp.array(logits), top_k, top_p))
  for row in range(3):
    order = np.argsort(-logits[row], kind='stable')[: top_k or 5]  # equal logits in token order
    mass = np.exp(logits[row][order].astype(np.float64))
    cumulative = np.cumsum(mass / mass.sum())
    size = np.searchsorted(cumulative, top_p) + 1 if top_p < 1 else len(order)
    np.testing.assert_array_equal(tokens[row], order)
    np.testing.assert_array_equal(filtered[row, :size], logits[row][order[:size]])
    assert (filtered[row, size:] == -np.inf).all()


@pytest.mark.parametrize('options', [
  {'top_k': 1}, {'top_p': 1e-6}, {'temperature': 0.0}, {'temperature': 1e-40}, *(
    {'temperature': t, 'top_k': 2} for t in (5e-324, 1e-38, 1e-30))], ids=str)
def test_sampling_from_one_candidate_equals_greedy_search(options):
  limits, table = np.full(3, MAX_LENGTH), random_table(1)
  search = functools.partial(decoding.sample, key=KEY, **options)
  actual = decode_table(search, table, limits, ())
  expected = decode_table(decoding.greedy_search, table, limits, ())
  jax.tree.map(np.testing.assert_array_equal, actual, expected)


def test_tokens_of_a_sequence_are_drawn_independently():
  tokens = decode_table(
    functools.partial(decoding.sample, key=KEY), np.zeros(TABLE_SHAPE, np.float32),
    np.full(DRAWS, 2), ()).tokens
  pairs = np.asarray(tokens[tokens[:, 0] != END_TOKEN, :2])
  counts = np.bincount(pairs[:, 0] * NUM_TOKENS + pairs[:, 1], minlength=2 * NUM_TOKENS)
  np.testing.assert_allclose(counts / len(pairs), 1 / 6, atol=0.03)


@pytest.mark.parametrize('temperature', [1e36, 1e38, 1e300, float('inf')])
def test_high_temperatures_sample_uniformly_among_candidates(temperature):
  table = np.zeros(TABLE_SHAPE, np.float32)
  table[1] = [50.0, -np.inf, -30.0]
  for options in ({}, {'top_k': 2, 'top_p': 0.99}):
    tokens = first_tokens(table, temperature=temperature, **options)
    counts = np.bincount(tokens, minlength=NUM_TOKENS)
    assert counts[1] == 0
    np.testing.assert_allclose(counts / DRAWS, [0.5, 0, 0.5], atol=4 * 0.5 / DRAWS**0.5)
