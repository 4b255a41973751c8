"""Tests that all forms of linear scans equal the recurrence in value and in gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from baselines.scans import FORMS, linear_scan, scan_without_storing_states
from tests.support.reference import assert_close

EXPLICIT_FORMS = FORMS[1:]  # without 'auto'
BATCH, WIDTH = 2, 3


def reference_states(decay, input_term, initial_state):
  """The recurrence in float64."""
  wide = np.complex128 if np.iscomplexobj(input_term) else np.float64
  h, states = np.asarray(initial_state, wide), []
  decay = np.broadcast_to(np.asarray(decay, wide), input_term.shape)
  for a, b in zip(decay, np.asarray(input_term, wide), strict=True):
    h = a * h + b
    states.append(h)
  return np.stack(states), h


def reference_gradients(decay, input_term, initial_state, cotangent):
  """Gradients of a weighted sum of real states for decay, input term and initial state."""
  states, _ = reference_states(decay, input_term, initial_state)
  before, later, adjoint = np.concatenate([initial_state[None], states[:-1]]), 0.0, []
  for a, dh in zip(np.float64(decay[::-1]), np.float64(cotangent[::-1]), strict=True):
    adjoint.append(dh + later)
    later = a * adjoint[-1]
  adjoint = np.stack(adjoint[::-1])
  return adjoint * before, adjoint, later


def scan_for_autodiff(decay, input_term, initial_state):
  """The recurrence as a plain loop, for automatic differentiation."""
  last, states = jax.lax.scan(
    lambda h, inputs: (inputs[0] * h + inputs[1],) * 2,
    initial_state,
    (jnp.broadcast_to(decay, (len(input_term), *decay.shape[1:])), input_term),
  )
  return states, last


def draw_arguments(seed, length, shared=(), low=-1.0, high=1.0, is_complex=False):
  """A decay with values or moduli from low to high, an input term and an initial state."""
  generator = np.random.default_rng(seed)
  shape = [length, BATCH, WIDTH]
  decay = generator.uniform(low, high, [1 if i in shared else n for i, n in enumerate(shape)])
  input_term, initial_state = generator.normal(size=shape), generator.normal(size=shape[1:])
  if is_complex:
    decay = decay * np.exp(1j * generator.uniform(0, 6.3, decay.shape))
    input_term = input_term * np.exp(1j * input_term)
    initial_state = initial_state * np.exp(1j * initial_state)
  dtype = np.complex64 if is_complex else np.float32
  return tuple(a.astype(dtype) for a in (decay, input_term, initial_state))


@functools.partial(jax.jit, static_argnums=0)
def gradients(scan, *arguments):
  """Gradients of a real loss in which all states have different weights."""
  def loss(*arguments):
    states, last = scan(*arguments)
    weight = jnp.exp(1j * jnp.arange(states.size)).reshape(states.shape)
    return jnp.sum((weight * states).real) + jnp.sum((last * last).real)

  return jax.grad(loss, (0, 1, 2))(*arguments)


SCANS = {form: jax.jit(functools.partial(linear_scan, form=form)) for form in EXPLICIT_FORMS}


def stack_parts(x):
  """The stacked real and imaginary parts."""
  return np.stack([np.real(x), np.imag(x)])


@settings(deadline=None, max_examples=4)
@given(
  length=st.sampled_from([1, 9]),
  shared=st.sampled_from([(), (0, 1), (2,)]),
  interval=st.sampled_from([(-1, 1), (0.999, 1), (-1e-4, 1e-4), (0, 0), (1, 1)]),
  is_complex=st.booleans(),
)
@example(length=9, shared=(), interval=(0, 0), is_complex=True)
@example(length=9, shared=(0, 1), interval=(-1, 1), is_complex=True)
@example(length=9, shared=(), interval=(-1, 1), is_complex=False)
def test_all_forms_equal_the_recurrence_in_value_and_gradient(
  length, shared, interval, is_complex
):
  arguments = draw_arguments(length, length, shared, *interval, is_complex)
  expected = reference_states(*arguments)
  expected_gradients = gradients(scan_for_autodiff, *arguments)
  for scan in SCANS.values():
    for actual, value in zip(scan(*arguments), expected, strict=True):
      assert_close(stack_parts(actual), stack_parts(value))
    for argument, actual, value in zip(
      arguments, gradients(scan, *arguments), expected_gradients, strict=True
    ):
      assert actual.shape == argument.shape and actual.dtype == argument.dtype
      assert_close(stack_parts(actual), stack_parts(value))


@pytest.mark.parametrize('form', EXPLICIT_FORMS)
@pytest.mark.parametrize('interval', [(-1, 1), (0.9999, 1)])
def test_scans_of_long_sequences_are_accurate(form, interval):
  arguments = draw_arguments(0, 4096, (), *interval)
  states, last = SCANS[form](*arguments)
  expected, end = reference_states(*arguments)
  assert_close(states, expected)
  assert_close(last, end)
  cotangent = np.cos(np.arange(states.size, dtype=np.float32)).reshape(states.shape)
  loss = lambda *arrays: jnp.sum(cotangent * SCANS[form](*arrays)[0])  # noqa: E731
  actual_gradients = jax.jit(jax.grad(loss, (0, 1, 2)))(*arguments)
  for actual, value in zip(
    actual_gradients, reference_gradients(*arguments, cotangent), strict=True
  ):
    assert_close(actual, value)


@pytest.mark.parametrize('shared', [(), (0, 1)])
def test_a_masked_step_leaves_the_state_unchanged(shared):
  decay, input_term, initial_state = draw_arguments(1, 7, shared)
  mask = np.random.default_rng(0).random((7, BATCH)) < 0.6
  states, last = linear_scan(decay, input_term, initial_state, mask)
  for b in range(BATCH):
    valid = mask[:, b]
    a = np.broadcast_to(decay, input_term.shape)[valid, b]
    expected, end = reference_states(a, input_term[valid, b], initial_state[b])
    assert_close(np.asarray(states)[valid, b], expected)
    assert_close(last[b], end)
    before = np.concatenate([initial_state[None], states[:-1]])
    np.testing.assert_array_equal(np.asarray(states)[~valid, b], before[~valid, b])


@functools.partial(jax.jit, static_argnames='form')
def state_space_scan(step, b, c, rate, initial_state, form='auto'):
  """A state space with states [B, N, D], decay exp(-rate step), input term b step and readout c."""
  def compute_decay_and_input_term(inputs):
    step, b, _ = inputs
    return jnp.exp(-rate[None] * step[:, None]), b[..., None] * step[:, None]

  return scan_without_storing_states(
    compute_decay_and_input_term,
    lambda h, inputs: jnp.sum(h * inputs[2][..., None], 1),
    (step, b, c),
    initial_state,
    form,
  )


def state_space_inputs(length, size=2):
  generator = np.random.default_rng(length)

  def draw_normal(*shape):
    return generator.normal(size=shape).astype(np.float32)

  step = np.abs(draw_normal(length, BATCH, WIDTH))
  b, c = draw_normal(length, BATCH, size), draw_normal(length, BATCH, size)
  return step, b, c, np.abs(draw_normal(size, WIDTH)), draw_normal(BATCH, size, WIDTH)


# The lengths are a part of a chunk, a full chunk, and two chunks with a remainder.
@pytest.mark.parametrize('length', [1, 8, 21])
def test_a_scan_without_storing_states_equals_the_readout_of_all_states(length):
  step, b, c, rate, initial_state = arguments = state_space_inputs(length)

  def unchunked_scan(step, b, c, rate, initial_state):
    decay = jnp.exp(-rate[None, None] * step[:, :, None])
    states, last = scan_for_autodiff(decay, b[..., None] * step[:, :, None], initial_state)
    return jnp.sum(states * c[..., None], 2), last

  decay = np.exp(-np.float64(rate) * step[:, :, None])
  states, end = reference_states(decay, np.float64(b[..., None]) * step[:, :, None], initial_state)

  def gradient_of(scan):
    return jax.grad(lambda *arrays: sum(jnp.sum(jnp.sin(y)) for y in scan(*arrays)), range(5))

  expected = jax.jit(gradient_of(unchunked_scan))(*arguments)
  for form in ('sequential', 'associative'):
    scan = functools.partial(state_space_scan, form=form)
    y, last = scan(*arguments)
    assert_close(y, np.sum(states * c[..., None], 2))
    assert_close(last, end)
    for actual, value in zip(jax.jit(gradient_of(scan))(*arguments), expected, strict=True):
      assert_close(actual, np.asarray(value))


def test_a_scan_without_storing_states_saves_memory():
  length, size = 256, 64
  arguments = state_space_inputs(length, size)

  def loss(*arrays):
    return jnp.sum(jnp.sin(state_space_scan(*arrays, form='sequential')[0]))

  compiled = jax.jit(jax.grad(loss, range(5))).lower(*arguments).compile()
  all_states = 4 * length * BATCH * size * WIDTH
  assert compiled.memory_analysis().temp_size_in_bytes < 0.75 * all_states


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('shared', [(), (0,)])
def test_a_scan_without_tokens_returns_the_initial_state_and_gradient(form, shared):
  decay, input_term, initial_state = (jnp.array(a) for a in draw_arguments(0, 2, shared))
  decay, input_term = decay[: 1 if shared else 0], input_term[:0]

  def loss(decay, input_term, initial_state):
    states, last = linear_scan(decay, input_term, initial_state, form=form)
    return jnp.sum(jnp.sin(last)) + jnp.sum(states), (states, last)

  gradients, (states, last) = jax.grad(loss, range(3), has_aux=True)(
    decay, input_term, initial_state
  )
  assert states.shape == input_term.shape
  np.testing.assert_array_equal(last, initial_state)
  np.testing.assert_allclose(gradients[2], jnp.cos(initial_state), rtol=1e-6)
  assert not np.any(gradients[0])


def test_an_unknown_form_raises_an_error():
  with pytest.raises(ValueError, match=r'parallel.*auto, sequential, associative$'):
    linear_scan(*draw_arguments(0, 2), form='parallel')
