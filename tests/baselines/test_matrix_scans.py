"""Tests of both forms of a recurrence with a matrix state against its definition in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from baselines import matrix_scans
from baselines.matrix_scans import FORMS, join_chunks, outer_product_scan, split_into_chunks
from tests.support.float64 import float64_enabled
from tests.support.reference import assert_close
from transformer import platform

BATCH, HEADS, KEY, VALUE = 2, 3, 5, 4
DECAYS = ('none', 'head', 'time', 'channel')


def draw_arrays(length, decay, centre=-1.0, spread=1.0, heads=HEADS, state=1.0):
  """Queries, keys, values, log decays around -exp(centre), and an initial state."""
  generator = np.random.default_rng(length)
  shape = {'head': (HEADS,), 'time': (BATCH, length, HEADS)}.get(
    decay, (BATCH, length, HEADS, KEY)
  )
  log_decay = -np.exp(generator.normal(centre, spread, shape))
  arrays = (
    generator.normal(size=(BATCH, length, heads, KEY)),
    generator.normal(size=(BATCH, length, heads, KEY)),
    generator.normal(size=(BATCH, length, HEADS, VALUE)),
    None if decay == 'none' else log_decay,
    generator.normal(0, state, (BATCH, HEADS, KEY, VALUE)),
  )
  return jax.tree.map(lambda a: a.astype(np.float32), arrays)


def platforms_with_different_forms(decay):
  """Platforms whose chunked forms for this kind of decay differ."""
  return ('cpu', 'tpu') if decay == 'channel' else ('cpu',)


def draw_negative_mask(length, decay, negative):
  """A random mask of negative decays, or None if no decay is to be negative."""
  if not negative:
    return None
  shape = (BATCH, length, HEADS) if decay == 'time' else (BATCH, length, HEADS, KEY)
  return np.random.default_rng(1).random(shape) < 0.5


def reference_scan(query, key, value, log_decay, state, negative=None):
  """S_t = a_t S_{t-1} + k_t v_t^T and y_t = S_t^T q_t in a loop over tokens."""
  y, state = np.zeros(value.shape), np.array(state, np.float64)
  for b, t, h in np.ndindex(*value.shape[:3]):
    a = 1.0 if log_decay is None else np.exp(np.float64(
      log_decay[h] if log_decay.ndim == 1 else log_decay[b, t, h]
    ))
    if negative is not None:
      a = np.where(negative[b, t, h], -a, a)
    q, k = (x[b, t, h if x.shape[2] > 1 else 0].astype(np.float64) for x in (query, key))
    state[b, h] = np.broadcast_to(a, KEY)[:, None] * state[b, h] + np.outer(k, value[b, t, h])
    y[b, t, h] = state[b, h].T @ q
  return y, state


@functools.partial(jax.jit, static_argnums=(2, 3))
def outputs_and_gradients(arrays, negative, form='auto', chunk_size=0):
  """The outputs and the last state, and the gradients of a scalar that depends on all of them."""
  def loss(arrays):
    outputs = outer_product_scan(*arrays, negative=negative, form=form, chunk_size=chunk_size)
    weights = (jnp.cos(jnp.arange(float(x.size))).reshape(x.shape) for x in outputs)
    return sum(jnp.sum(w * x) for w, x in zip(weights, outputs, strict=True)), outputs

  gradients, outputs = jax.grad(loss, has_aux=True)(arrays)
  return outputs, gradients


@pytest.mark.parametrize(
  ('decay', 'heads', 'negative'),
  [
    ('none', HEADS, False), ('head', 1, False), ('time', HEADS, False), ('time', 1, True),
    ('channel', HEADS, False), ('channel', 1, True),
  ],
)
def test_each_form_equals_the_definition(decay, heads, negative):
  length = 7
  arrays = draw_arrays(length, decay, heads=heads)
  negative_mask = draw_negative_mask(length, decay, negative)
  expected = reference_scan(*arrays, negative_mask)
  chunked = (('chunked', 4, name) for name in platforms_with_different_forms(decay))
  forms = [('recurrent', 0, 'cpu'), *chunked]
  for form, chunk_size, name in forms:
    with platform.override_platform(name):
      actual, _ = outputs_and_gradients(arrays, negative_mask, form, chunk_size)
    for a, e in zip(actual, expected, strict=True):
      assert_close(a, e)


def differentiable_reference(query, key, value, log_decay, state):
  """The definition of the recurrence in a loop over tokens, in the precision of its arguments."""
  log_decay = jnp.zeros((1,)) if log_decay is None else log_decay
  decay = jnp.exp(log_decay if log_decay.ndim == 4 else log_decay.reshape(
    (1,) * (3 - log_decay.ndim) + log_decay.shape + (1,)
  ))
  y = []
  for t in range(value.shape[1]):
    decay_t = decay[:, min(t, decay.shape[1] - 1), :, :, None]
    state = decay_t * state + key[:, t, :, :, None] * value[:, t, :, None]
    y.append((query[:, t, :, :, None] * state).sum(-2))
  return jnp.stack(y, 1), state


def weighted_sum(outputs):
  """A scalar that depends on every output and on every element of the last state."""
  return sum(jnp.sum(jnp.cos(jnp.arange(float(x.size))).reshape(x.shape) * x) for x in outputs)


# Blocks have two chunks of both sequences (16 tokens), or one chunk of a single sequence (4).
@pytest.mark.parametrize(
  ('decay', 'heads', 'length', 'name', 'tokens_per_block'),
  [
    ('none', HEADS, 16, 'cpu', 16), ('head', HEADS, 16, 'cpu', 16), ('head', 1, 11, 'cpu', 4),
    ('time', 1, 13, 'cpu', 16), ('time', HEADS, 16, 'cpu', 4), ('time', 1, 13, 'tpu', 16),
    ('channel', HEADS, 13, 'cpu', 16), ('channel', HEADS, 13, 'cpu', 4),
    ('channel', 1, 16, 'tpu', 16), ('channel', HEADS, 1, 'cpu', 16), ('none', HEADS, 16, 'cpu', 4),
  ],
)
def test_gradients_equal_the_derivatives_of_the_definition_in_float64(
  decay, heads, length, name, tokens_per_block, monkeypatch
):
  monkeypatch.setattr(matrix_scans, 'CPU_TOKENS_PER_BLOCK', tokens_per_block)
  arrays = draw_arrays(length, decay, heads=heads)
  with platform.override_platform(name):
    chunked = jax.jit(functools.partial(outer_product_scan, form='chunked', chunk_size=4))
    gradients = jax.jit(jax.grad(lambda arrays: weighted_sum(chunked(*arrays))))(arrays)
  with float64_enabled():
    exact = jax.tree.map(lambda a: jnp.array(a, jnp.float64), arrays)
    expected = jax.jit(jax.grad(lambda a: weighted_sum(differentiable_reference(*a))))(exact)
  for actual, exact in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
    assert_close(actual, np.asarray(exact))


@pytest.mark.slow
@settings(deadline=None, max_examples=5)
@given(
  length=st.sampled_from([1, 37]),
  chunk_size=st.sampled_from([1, 16]),
  decay=st.sampled_from(DECAYS),
  centre=st.floats(-12, 4),
  spread=st.floats(0, 4),
  state=st.sampled_from([0.0, 1.0, 1e4]),
  negative=st.booleans(),
)
@example(37, 16, 'time', 3.0, 3.0, 1.0, False)
@example(37, 16, 'channel', 3.0, 3.0, 1.0, False)
@example(200, 64, 'time', -9.0, 0.5, 1.0, True)
@example(200, 16, 'channel', 0.0, 4.0, 1e4, False)
def test_the_forms_are_equal_in_value_and_gradient(
  length, chunk_size, decay, centre, spread, state, negative
):
  arrays = draw_arrays(length, decay, centre, spread, state=state)
  negative_mask = draw_negative_mask(length, decay, negative and decay in ('time', 'channel'))
  expected = outputs_and_gradients(arrays, negative_mask, 'recurrent')
  for name in platforms_with_different_forms(decay):
    with platform.override_platform(name):
      actual = outputs_and_gradients(arrays, negative_mask, 'chunked', chunk_size)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
      assert np.isfinite(a).all()
      assert_close(a, np.asarray(e))


@pytest.mark.parametrize(
  ('decay', 'name'), [('time', 'cpu'), ('channel', 'cpu'), ('channel', 'tpu')]
)
def test_a_decay_of_zero_removes_all_earlier_tokens(decay, name):
  query, key, value, log_decay, state = draw_arrays(9, decay)
  log_decay[:, 5] = -np.inf
  arrays = query, key, value, log_decay, state
  with platform.override_platform(name):
    (y, after), gradients = outputs_and_gradients(arrays, None, 'chunked', 8)
  late = (*(a[:, 5:] for a in arrays[:4]), np.zeros_like(state))
  for actual, expected in zip((y[:, 5:], after), reference_scan(*late), strict=True):
    assert_close(actual, expected)
  assert all(np.isfinite(g).all() for g in gradients)
  assert not np.asarray(gradients[3])[:, 5].any()


@pytest.mark.parametrize('length', [1, 4, 10])
def test_join_chunks_inverts_split_into_chunks(length):
  x = np.random.default_rng(0).normal(size=(BATCH, length, HEADS, KEY)).astype(np.float32)
  chunks = split_into_chunks(jnp.array(x), 4)
  assert chunks.shape == (-(-length // 4), BATCH, HEADS, 4, KEY)
  np.testing.assert_array_equal(join_chunks(chunks, length), x)
  for n, b, h, c in np.ndindex(*chunks.shape[:4]):
    time = 4 * n + c
    expected = x[b, time, h] if time < length else np.zeros(KEY)
    np.testing.assert_array_equal(chunks[n, b, h, c], expected)


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'form': 'parallel'}, f"'parallel'.*{', '.join(FORMS)}"),
    ({'chunk_size': 12}, 'power of two.*not 12'),
    ({'chunk_size': -2}, 'power of two.*not -2'),
  ],
)
def test_an_unknown_form_or_chunk_size_raises_an_error(options, message):
  with pytest.raises(ValueError, match=message):
    outer_product_scan(*draw_arrays(3, 'time'), **options)
