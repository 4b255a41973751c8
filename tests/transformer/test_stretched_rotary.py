"""Rotary positions for long texts: against their equations in float64, and inside attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.reference import close
from transformer.attention import Attention
from transformer.positions import Rotary
from transformer.stretched_rotary import (
  DynamicRotary,
  Llama3Rotary,
  StretchedRotary,
  YarnRotary,
)

PAIRS, LENGTH, WIDTH = 8, 12, 8
FORMS = {
  'llama3': Llama3Rotary(base=100.0, stretch=4.0, trained_length=32),
  'yarn': YarnRotary(base=100.0, stretch=4.0, trained_length=64, many_turns=8.0),
  'dynamic': DynamicRotary(base=100.0, stretch=3.0, trained_length=5),
}


@settings(deadline=None, max_examples=50)
@given(base=st.floats(1.5, 1e7), stretch=st.floats(1, 64), length=st.integers(1, 2**20),
       pairs=st.integers(1, 64))
def test_a_stretched_frequency_lies_between_the_stretched_and_the_plain_one(
    base, stretch, length, pairs):
  plain = np.array(Rotary(base).frequencies(pairs))
  for kind in (Llama3Rotary, YarnRotary):
    mixed = np.array(kind(base=base, stretch=stretch, trained_length=length).frequencies(pairs))
    assert np.all(mixed <= plain * (1 + 1e-12)) and np.all(mixed >= plain / stretch * (1 - 1e-12))


def test_pairs_that_come_around_often_are_kept_and_slow_ones_are_stretched():
  """Llama 2's 64 pairs, of which the authors' code keeps those to 20 and stretches from 46 on."""
  yarn = YarnRotary(base=1e4, stretch=16.0, trained_length=4096)
  share = np.array(yarn.frequencies(64)) / Rotary(1e4).frequencies(64)
  np.testing.assert_allclose(share[:21], 1)
  np.testing.assert_allclose(share[46:], 1 / 16)
  np.testing.assert_allclose(np.diff(share[20:47]), (1 / 16 - 1) / 26)
  turns = 4096 * np.array(Rotary(1e4).frequencies(64)) / (2 * np.pi)
  assert turns[20] > 32 > turns[21] and turns[45] > 1 > turns[46]


def test_a_number_of_turns_near_zero_stretches_no_pair_in_full():
  frequencies = np.array(YarnRotary(few_turns=1e-320).frequencies(PAIRS))
  assert np.isfinite(frequencies).all()
  assert (frequencies > 1.001 * np.array(Rotary(stretch=8.0).frequencies(PAIRS))).all()


def test_without_a_stretch_every_form_is_plain():
  plain = Rotary(100.0).frequencies(PAIRS)
  for kind in (Llama3Rotary, YarnRotary):
    form = kind(base=100.0, stretch=1.0)
    np.testing.assert_allclose(form.frequencies(PAIRS), plain)
    assert form.magnitude == 1
  index = np.arange(20)
  np.testing.assert_array_equal(
    DynamicRotary(100.0, 7.0, 20).angles(index, PAIRS), Rotary(100.0).angles(index, PAIRS))


@pytest.mark.parametrize('pairs', [1, 2, 8])
def test_dynamic_turns_are_those_of_a_base_that_grows_with_the_length(pairs):
  stretch, trained, index = 3.0, 5, np.arange(40)
  expected = np.zeros((len(index), pairs))
  for t, i in np.ndindex(expected.shape):
    growth = stretch * max(t + 1, trained) / trained - (stretch - 1)
    base = 100.0 * growth ** (2 * pairs / (2 * pairs - 2)) if pairs > 1 else 100.0
    expected[t, i] = t * base ** (-i / pairs)
  close(DynamicRotary(100.0, stretch, trained).angles(index, pairs), expected, 1e-6)


def test_the_slowest_pair_of_a_dynamic_turn_is_stretched_as_the_length_is():
  """By s times the length beyond the trained one, plus 1: what the power K / (K - 2) is for."""
  slowest = np.array(DynamicRotary(100.0, 1.0, 10).angles(np.array([9, 39]), PAIRS))[:, -1]
  np.testing.assert_allclose(slowest[1] / slowest[0], 39 / 9 / 4, rtol=1e-6)


def test_yarn_sharpens_scores_as_its_paper_says():
  x = np.random.default_rng(0).normal(size=(2, 1, 1, 3, 2 * PAIRS)).astype(np.float32)
  yarn, index = FORMS['yarn'], np.arange(3)
  query, key = (np.asarray(yarn.rotate(part, index)) for part in x)
  norms = [np.linalg.norm(part, axis=-1) for part in (*x, query, key)]
  factor = 0.1 * np.log(4.0) + 1
  np.testing.assert_allclose(norms[2:], factor * np.array(norms[:2]), rtol=1e-5)


@pytest.mark.parametrize('name', FORMS)
def test_a_text_in_pieces_is_answered_as_the_whole(name):
  """Also where the text grows beyond the trained length, which dynamic positions look at."""
  layer = Attention(1, FORMS[name])
  x = jnp.array(np.random.default_rng(0).normal(size=(2, LENGTH, WIDTH)), jnp.float32)
  parameters = jax.jit(layer.init)(jax.random.key(0), x)
  apply, state = jax.jit(layer.apply), layer.initial_state(2, LENGTH, WIDTH)
  whole, _ = apply(parameters, x)
  pieces = []
  for piece in jnp.split(x, [4, 5, 6, 11], 1):
    y, state = apply(parameters, piece, state)
    pieces.append(y)
  close(jnp.concatenate(pieces, 1), np.asarray(whole))


@pytest.mark.parametrize(('make', 'says'), [
  (lambda: Rotary(0.0), 'base of at least 1, not 0'),
  (lambda: Rotary(float('nan')), 'base of at least 1, not nan'),
  (lambda: Rotary(float('inf')), 'base of at least 1, not inf'),
  (lambda: Rotary(stretch=-1.0), 'stretch of at least 0.001, not -1'),
  (lambda: Rotary(stretch=1e-300), 'stretch of at least 0.001'),
  (lambda: Llama3Rotary(few_turns=2.0, many_turns=2.0), 'not 2 and 2'),
  (lambda: Llama3Rotary(trained_length=0), 'at least 1, not 0'),
  (lambda: YarnRotary(base=1.0), 'base above 1'),
  (lambda: YarnRotary(many_turns=0.5), 'not 1 and 0.5'),
  (lambda: YarnRotary(sharpening=float('inf')), 'not inf'),
  (lambda: DynamicRotary(trained_length=-5), 'not -5'),
])
def test_turns_that_cannot_be_are_refused(make, says):
  with pytest.raises(ValueError, match=says):
    make()


def test_a_form_says_which_frequencies_it_keeps():
  with pytest.raises(TypeError, match='does not say'):
    StretchedRotary().frequencies(2)
