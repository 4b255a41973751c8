"""Tests that the selective scan equals its recurrence in value and in gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from baselines import selective_scan as module
from baselines.selective_scan import selective_scan
from tests.support.float64 import float64_enabled

SIZE, WIDTH = 2, 3


def plain_scan(step, x, b, c, rate, initial_state, signed):
  """The definition as a plain loop, for automatic differentiation."""
  def process_token(h, inputs):
    step, x, b, c = inputs
    decay = jnp.exp(step[:, None] * rate[None])
    h = (2 * decay - 1 if signed else decay) * h + b[:, :, None] * x[:, None]
    return h, jnp.sum(h * c[:, :, None], 1)

  last, y = jax.lax.scan(process_token, initial_state, (step, x, b, c))
  return y, last


def draw_arguments(length, batch_size, masked=False, dtype=np.float64):
  """Draws the arguments of a scan. With a mask, about a third of the tokens are steps of 0."""
  generator = np.random.default_rng(length)
  draw = generator.normal
  step = generator.uniform(0, 2, (length, batch_size, WIDTH))
  if masked:
    step *= generator.random((length, batch_size, 1)) < 0.7
  arguments = (
    step, step * draw(size=step.shape), draw(size=(length, batch_size, SIZE)),
    draw(size=(length, batch_size, SIZE)), -generator.uniform(0, 2, (SIZE, WIDTH)),
    draw(size=(batch_size, SIZE, WIDTH)),
  )
  return tuple(a.astype(dtype) for a in arguments)


@functools.partial(jax.jit, static_argnums=0)
def values_and_gradients(scan, *arguments):
  """Outputs, last state and the gradients of a loss in which both have different weights."""
  def loss(*arguments):
    y, last = scan(*arguments)
    weight = jnp.cos(jnp.arange(y.size)).reshape(y.shape)
    return jnp.sum(weight * y) + jnp.sum(jnp.sin(last)), (y, last)

  gradients, values = jax.grad(loss, range(6), has_aux=True)(*arguments)
  return *values, *gradients


def assert_equal_up_to_rounding(actual, expected):
  for a, e in zip(actual, expected, strict=True):
    assert a.shape == e.shape and a.dtype == e.dtype
    np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-9)


# A chunk has at most 128 tokens of a single sequence, 16 of each of 8 sequences, or 8 of each of a
# group of 16. The lengths are part of a chunk, several full chunks, and chunks of which the last
# one is padded.
@pytest.mark.parametrize(('length', 'batch_size', 'signed', 'masked', 'form'), [
  (1, 1, True, False, 'sequential'),
  (32, 8, False, True, 'sequential'),
  (35, 8, True, True, 'sequential'),
  (257, 1, False, False, 'sequential'),
  (19, 32, True, True, 'sequential'),
  (5, 34, False, False, 'sequential'),
  (11, 8, True, True, 'associative'),
])
def test_values_and_gradients_equal_those_of_the_plain_loop(
  length, batch_size, signed, masked, form
):
  with float64_enabled():
    arguments = draw_arguments(length, batch_size, masked)
    expected = values_and_gradients(functools.partial(plain_scan, signed=signed), *arguments)
    scan = functools.partial(selective_scan, signed=signed, form=form)
    assert_equal_up_to_rounding(values_and_gradients(scan, *arguments), expected)


def test_members_of_a_vmap_are_scanned_separately():
  scan = functools.partial(selective_scan, form='sequential')
  with float64_enabled():
    members = [draw_arguments(9, 8), tuple(-0.5 * a for a in draw_arguments(9, 8))]
    stacked = [jnp.stack(pair) for pair in zip(*members, strict=True)]
    together = jax.vmap(functools.partial(values_and_gradients, scan))(*stacked)
    for i, arguments in enumerate(members):
      expected = values_and_gradients(scan, *arguments)
      assert_equal_up_to_rounding([a[i] for a in together], expected)


def test_a_step_of_zero_leaves_the_state_unchanged():
  step, x, b, c, rate, initial_state = draw_arguments(5, 2, dtype=np.float32)
  for signed in (False, True):
    _, last = selective_scan(0 * step, 0 * x, b, c, rate, initial_state, signed=signed)
    np.testing.assert_array_equal(last, initial_state)


def test_a_scan_without_tokens_returns_the_initial_state():
  step, x, b, c, rate, initial_state = draw_arguments(1, 2, dtype=np.float32)
  y, last = selective_scan(step[:0], x[:0], b[:0], c[:0], rate, initial_state)
  assert y.shape == (0, 2, WIDTH)
  np.testing.assert_array_equal(last, initial_state)


def test_a_batch_without_sequences_has_gradients_of_zero():
  step, x, b, c, rate, initial_state = draw_arguments(3, 2, dtype=np.float32)
  empty = step[:, :0], x[:, :0], b[:, :0], c[:, :0], rate, initial_state[:0]
  y, last, *gradients = values_and_gradients(selective_scan, *empty)
  assert y.shape == (3, 0, WIDTH) and last.shape == initial_state[:0].shape
  assert [a.shape for a in gradients] == [a.shape for a in empty]
  assert not gradients[4].any()


@pytest.mark.parametrize('batch_size', [1, 8])
def test_the_gradient_stores_a_state_per_chunk(batch_size):
  length = 2048
  arguments = draw_arguments(length, batch_size, dtype=np.float32)
  arguments = [np.tile(a, (1, 1, 16)) if i in (2, 3) else a for i, a in enumerate(arguments)]
  arguments[4], arguments[5] = np.tile(arguments[4], (16, 1)), np.tile(arguments[5], (1, 16, 1))
  scan = functools.partial(selective_scan, form='sequential')
  compiled = values_and_gradients.lower(scan, *arguments).compile()
  all_states = 4 * length * batch_size * 16 * SIZE * WIDTH
  per_chunk = 1 / max(module.MIN_CHUNK_SIZE, module.MIN_CHUNK_ROWS // batch_size)
  assert compiled.memory_analysis().temp_size_in_bytes < (per_chunk + 0.5) * all_states


def test_an_unknown_form_raises_an_error():
  with pytest.raises(ValueError, match=r'parallel.*auto, sequential, associative$'):
    selective_scan(*draw_arguments(2, 1, dtype=np.float32), form='parallel')
