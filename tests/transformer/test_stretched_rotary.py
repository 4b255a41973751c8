"""Rotary positions for long contexts match their equations in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.reference import assert_close
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
  'yarn': YarnRotary(base=100.0, stretch=4.0, trained_length=64, max_rotations=8.0),
  'dynamic': DynamicRotary(base=100.0, stretch=3.0, trained_length=5),
}


@settings(deadline=None, max_examples=50)
@given(base=st.floats(1.5, 1e7), stretch=st.floats(1, 64), length=st.integers(1, 2**20),
       pairs=st.integers(1, 64))
def test_mixed_frequencies_lie_between_stretched_and_plain_frequencies(
    base, stretch, length, pairs):
  plain = np.array(Rotary(base).rotation_frequencies(pairs))
  for kind in (Llama3Rotary, YarnRotary):
    mixed = np.array(
      kind(base=base, stretch=stretch, trained_length=length).rotation_frequencies(pairs))
    assert np.all(mixed <= plain * (1 + 1e-12)) and np.all(mixed >= plain / stretch * (1 - 1e-12))


def test_yarn_keeps_fast_pairs_and_stretches_slow_pairs():
  """Of 64 pairs as in Llama 2, the authors' code keeps 0 to 20 and stretches 46 to 63 fully."""
  yarn = YarnRotary(base=1e4, stretch=16.0, trained_length=4096)
  share = np.array(yarn.rotation_frequencies(64)) / Rotary(1e4).rotation_frequencies(64)
  np.testing.assert_allclose(share[:21], 1)
  np.testing.assert_allclose(share[46:], 1 / 16)
  np.testing.assert_allclose(np.diff(share[20:47]), (1 / 16 - 1) / 26)
  rotations = 4096 * np.array(Rotary(1e4).rotation_frequencies(64)) / (2 * np.pi)
  assert rotations[20] > 32 > rotations[21] and rotations[45] > 1 > rotations[46]


def test_min_rotations_near_zero_stretch_no_pair_fully():
  frequencies = np.array(YarnRotary(min_rotations=1e-320).rotation_frequencies(PAIRS))
  assert np.isfinite(frequencies).all()
  assert (frequencies > 1.001 * np.array(Rotary(stretch=8.0).rotation_frequencies(PAIRS))).all()


def test_without_a_stretch_every_form_equals_plain_rotary():
  plain = Rotary(100.0).rotation_frequencies(PAIRS)
  for kind in (Llama3Rotary, YarnRotary):
    form = kind(base=100.0, stretch=1.0)
    np.testing.assert_allclose(form.rotation_frequencies(PAIRS), plain)
    assert form.query_key_scale == 1
  index = np.arange(20)
  np.testing.assert_array_equal(
    DynamicRotary(100.0, 7.0, 20).rotation_angles(index, PAIRS),
    Rotary(100.0).rotation_angles(index, PAIRS))


@pytest.mark.parametrize('pairs', [1, 2, 8])
def test_dynamic_angles_match_a_base_that_grows_with_the_length(pairs):
  stretch, trained, index = 3.0, 5, np.arange(40)
  expected = np.zeros((len(index), pairs))
  for t, i in np.ndindex(expected.shape):
    growth = stretch * max(t + 1, trained) / trained - (stretch - 1)
    base = 100.0 * growth ** (2 * pairs / (2 * pairs - 2)) if pairs > 1 else 100.0
    expected[t, i] = t * base ** (-i / pairs)
  assert_close(DynamicRotary(100.0, stretch, trained).rotation_angles(index, pairs), expected, 1e-6)


def test_the_slowest_dynamic_pair_is_stretched_like_the_length():
  """The power K / (K - 2) stretches it by 1 plus s times the excess over the trained length."""
  slowest = np.array(DynamicRotary(100.0, 1.0, 10).rotation_angles(np.array([9, 39]), PAIRS))[:, -1]
  np.testing.assert_allclose(slowest[1] / slowest[0], 39 / 9 / 4, rtol=1e-6)


def test_yarn_scales_queries_and_keys_as_in_its_paper():
  x = np.random.default_rng(0).normal(size=(2, 1, 1, 3, 2 * PAIRS)).astype(np.float32)
  yarn, index = FORMS['yarn'], np.arange(3)
  query, key = (np.asarray(yarn.rotate(part, index)) for part in x)
  norms = [np.linalg.norm(part, axis=-1) for part in (*x, query, key)]
  factor = 0.1 * np.log(4.0) + 1
  np.testing.assert_allclose(norms[2:], factor * np.array(norms[:2]), rtol=1e-5)


@pytest.mark.parametrize('name', FORMS)
def test_a_sequence_in_chunks_has_the_outputs_of_one_call(name):
  """The sequence exceeds the trained length of the dynamic positions."""
  layer = Attention(1, FORMS[name])
  x = jnp.array(np.random.default_rng(0).normal(size=(2, LENGTH, WIDTH)), jnp.float32)
  parameters = jax.jit(layer.init)(jax.random.key(0), x)
  apply, state = jax.jit(layer.apply), layer.initial_state(2, LENGTH, WIDTH)
  expected, _ = apply(parameters, x)
  outputs = []
  for chunk in jnp.split(x, [4, 5, 6, 11], 1):
    y, state = apply(parameters, chunk, state)
    outputs.append(y)
  assert_close(jnp.concatenate(outputs, 1), np.asarray(expected))


@pytest.mark.parametrize(('construct', 'message'), [
  (lambda: Rotary(0.0), 'base of at least 1, not 0'),
  (lambda: Rotary(float('nan')), 'base of at least 1, not nan'),
  (lambda: Rotary(float('inf')), 'base of at least 1, not inf'),
  (lambda: Rotary(stretch=-1.0), 'stretch of at least 0.001, not -1'),
  (lambda: Rotary(stretch=1e-300), 'stretch of at least 0.001'),
  (lambda: Llama3Rotary(min_rotations=2.0, max_rotations=2.0), 'not 2 and 2'),
  (lambda: Llama3Rotary(trained_length=0), 'at least 1, not 0'),
  (lambda: YarnRotary(base=1.0), 'base above 1'),
  (lambda: YarnRotary(max_rotations=0.5), 'not 1 and 0.5'),
  (lambda: YarnRotary(attention_factor=float('inf')), 'not inf'),
  (lambda: DynamicRotary(trained_length=-5), 'not -5'),
])
def test_invalid_rotary_options_raise_errors(construct, message):
  with pytest.raises(ValueError, match=message):
    construct()


def test_a_form_without_unstretched_fraction_raises_an_error():
  with pytest.raises(TypeError, match='does not implement'):
    StretchedRotary().rotation_frequencies(2)
