"""Linear scans: three forms, one recurrence, in value and in gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from baselines.scans import FORMS, expanded_scan, linear_scan
from tests.support.reference import close

EXACT = FORMS[1:]
BATCH, WIDTH = 2, 3


def step_by_step(decay, drive, initial):
  """The recurrence in float64."""
  wide = np.complex128 if np.iscomplexobj(drive) else np.float64
  h, states = np.asarray(initial, wide), []
  decay = np.broadcast_to(np.asarray(decay, wide), drive.shape)
  for a, b in zip(decay, np.asarray(drive, wide), strict=True):
    h = a * h + b
    states.append(h)
  return np.stack(states), h


def adjoint_step_by_step(decay, drive, initial, cotangent):
  """Gradients for decay, drive and initial state of the sum of real states times cotangents."""
  states, _ = step_by_step(decay, drive, initial)
  before, later, adjoint = np.concatenate([initial[None], states[:-1]]), 0.0, []
  for a, dh in zip(np.float64(decay[::-1]), np.float64(cotangent[::-1]), strict=True):
    adjoint.append(dh + later)
    later = a * adjoint[-1]
  adjoint = np.stack(adjoint[::-1])
  return adjoint * before, adjoint, later


def differentiated_step_by_step(decay, drive, initial):
  """The recurrence as a loop that JAX differentiates."""
  last, states = jax.lax.scan(
    lambda h, now: (now[0] * h + now[1],) * 2,
    initial,
    (jnp.broadcast_to(decay, (len(drive), *decay.shape[1:])), drive),
  )
  return states, last


def drawn(seed, length, shared=(), low=-1.0, high=1.0, is_complex=False):
  """Decays between low and high (of that size, if complex), a drive and a state to start from."""
  generator = np.random.default_rng(seed)
  shape = [length, BATCH, WIDTH]
  decay = generator.uniform(low, high, [1 if i in shared else n for i, n in enumerate(shape)])
  drive, initial = generator.normal(size=shape), generator.normal(size=shape[1:])
  if is_complex:
    decay = decay * np.exp(1j * generator.uniform(0, 6.3, decay.shape))
    drive, initial = drive * np.exp(1j * drive), initial * np.exp(1j * initial)
  dtype = np.complex64 if is_complex else np.float32
  return tuple(a.astype(dtype) for a in (decay, drive, initial))


@functools.partial(jax.jit, static_argnums=0)
def gradients(scan, *arguments):
  """Of a real number to which every state and the last one matter in its own way."""
  def loss(*arguments):
    states, last = scan(*arguments)
    weight = jnp.exp(1j * jnp.arange(states.size)).reshape(states.shape)
    return jnp.sum((weight * states).real) + jnp.sum((last * last).real)

  return jax.grad(loss, (0, 1, 2))(*arguments)


SCANS = {form: jax.jit(functools.partial(linear_scan, form=form)) for form in EXACT}


def parted(x):
  """Real and imaginary part side by side."""
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
def test_all_forms_are_the_recurrence_in_value_and_in_gradient(
  length, shared, interval, is_complex
):
  arguments = drawn(length, length, shared, *interval, is_complex)
  expected = step_by_step(*arguments)
  backwards = gradients(differentiated_step_by_step, *arguments)
  for scan in SCANS.values():
    for found, value in zip(scan(*arguments), expected, strict=True):
      close(parted(found), parted(value))
    for argument, found, value in zip(
      arguments, gradients(scan, *arguments), backwards, strict=True
    ):
      assert found.shape == argument.shape and found.dtype == argument.dtype
      close(parted(found), parted(value))


@pytest.mark.parametrize('form', EXACT)
@pytest.mark.parametrize('interval', [(-1, 1), (0.9999, 1)])
def test_long_sequences_keep_their_precision(form, interval):
  arguments = drawn(0, 4096, (), *interval)
  states, last = SCANS[form](*arguments)
  expected, end = step_by_step(*arguments)
  close(states, expected)
  close(last, end)
  cotangent = np.cos(np.arange(states.size, dtype=np.float32)).reshape(states.shape)
  pull = jax.jit(jax.grad(lambda *given: jnp.sum(cotangent * SCANS[form](*given)[0]), (0, 1, 2)))
  for found, value in zip(
    pull(*arguments), adjoint_step_by_step(*arguments, cotangent), strict=True
  ):
    close(found, value)


@pytest.mark.parametrize('shared', [(), (0, 1)])
def test_a_masked_step_leaves_the_state_as_it_is(shared):
  decay, drive, initial = drawn(1, 7, shared)
  mask = np.random.default_rng(0).random((7, BATCH)) < 0.6
  states, last = linear_scan(decay, drive, initial, mask)
  for b in range(BATCH):
    valid = mask[:, b]
    a = np.broadcast_to(decay, drive.shape)[valid, b]
    expected, end = step_by_step(a, drive[valid, b], initial[b])
    close(np.asarray(states)[valid, b], expected)
    close(last[b], end)
    before = np.concatenate([initial[None], states[:-1]])
    np.testing.assert_array_equal(np.asarray(states)[~valid, b], before[~valid, b])


@functools.partial(jax.jit, static_argnames='form')
def outer_product_scan(step, b, c, rate, initial, form='auto'):
  """States [B, N, D] that decay by exp(-rate step), written to by b and step, read by c."""
  return expanded_scan(
    lambda now: (jnp.exp(-rate[None] * now[0][:, None]), now[1][..., None] * now[0][:, None]),
    lambda h, now: jnp.sum(h * now[2][..., None], 1),
    (step, b, c),
    initial,
    form,
  )


def outer_product_inputs(length, size=2):
  generator = np.random.default_rng(length)

  def normal(*shape):
    return generator.normal(size=shape).astype(np.float32)

  step = np.abs(normal(length, BATCH, WIDTH))
  b, c = normal(length, BATCH, size), normal(length, BATCH, size)
  return step, b, c, np.abs(normal(size, WIDTH)), normal(BATCH, size, WIDTH)


@pytest.mark.parametrize('length', [1, 8, 21])  # less than a chunk, one, and two and a rest
def test_an_expanded_scan_reads_the_states_that_it_does_not_keep(length):
  step, b, c, rate, initial = arguments = outer_product_inputs(length)

  def whole(step, b, c, rate, initial):
    decay = jnp.exp(-rate[None, None] * step[:, :, None])
    states, last = differentiated_step_by_step(decay, b[..., None] * step[:, :, None], initial)
    return jnp.sum(states * c[..., None], 2), last

  decay = np.exp(-np.float64(rate) * step[:, :, None])
  states, end = step_by_step(decay, np.float64(b[..., None]) * step[:, :, None], initial)

  def gradient(scan):
    return jax.grad(lambda *given: sum(jnp.sum(jnp.sin(y)) for y in scan(*given)), range(5))

  expected = jax.jit(gradient(whole))(*arguments)
  for form in ('sequential', 'associative'):
    scan = functools.partial(outer_product_scan, form=form)
    y, last = scan(*arguments)
    close(y, np.sum(states * c[..., None], 2))
    close(last, end)
    for found, value in zip(jax.jit(gradient(scan))(*arguments), expected, strict=True):
      close(found, np.asarray(value))


def test_an_expanded_scan_does_not_keep_its_states():
  length, size = 256, 64
  arguments = outer_product_inputs(length, size)

  def loss(*given):
    return jnp.sum(jnp.sin(outer_product_scan(*given, form='sequential')[0]))

  compiled = jax.jit(jax.grad(loss, range(5))).lower(*arguments).compile()
  all_states = 4 * length * BATCH * size * WIDTH
  assert compiled.memory_analysis().temp_size_in_bytes < 0.75 * all_states


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('shared', [(), (0,)])
def test_no_step_leaves_the_state_as_it_is_in_value_and_gradient(form, shared):
  decay, drive, initial = (jnp.array(a) for a in drawn(0, 2, shared))
  decay, drive = decay[: 1 if shared else 0], drive[:0]

  def read(decay, drive, initial):
    states, last = linear_scan(decay, drive, initial, form=form)
    return jnp.sum(jnp.sin(last)) + jnp.sum(states), (states, last)

  gradients, (states, last) = jax.grad(read, range(3), has_aux=True)(decay, drive, initial)
  assert states.shape == drive.shape
  np.testing.assert_array_equal(last, initial)
  np.testing.assert_allclose(gradients[2], jnp.cos(initial), rtol=1e-6)
  assert not np.any(gradients[0])


def test_what_is_no_form_is_refused_by_name():
  with pytest.raises(ValueError, match=r'parallel.*auto, sequential, associative, chunked'):
    linear_scan(*drawn(0, 2), form='parallel')
