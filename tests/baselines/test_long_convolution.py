"""Long convolutions against direct sums in float64, causal to the last bit; Hyena's recurrence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from baselines.long_convolution import Hyena, from_memory, long_convolution
from tests.support.reference import BATCH, LENGTH, WIDTH, causal_depthwise, close, drawn, in_float64

LAYER = Hyena(order=3, sine_frequency=1.0, num_frequencies=3, filter_width=5, max_length=9)
apply = jax.jit(LAYER.apply)


def normal(seed, *shapes):
  generator = np.random.default_rng(seed)
  return [jnp.array(generator.normal(size=shape), jnp.float32) for shape in shapes]


def summed(x, kernel):
  """y_t = sum over s <= t of kernel_{t - s} x_s."""
  x, kernel = in_float64(x, kernel)
  y = np.zeros_like(x)
  for t in range(x.shape[1]):
    for s in range(t + 1):
      y[:, t] += kernel[t - s] * x[:, s]
  return y


@settings(deadline=None, max_examples=5)
@given(length=st.integers(1, 50), block_size=st.integers(1, 16))
@example(length=1, block_size=1)
@example(length=9, block_size=1)
@example(length=16, block_size=4)
@example(length=17, block_size=16)
def test_a_long_convolution_is_its_sum_in_value_and_gradient(length, block_size):
  shape = (BATCH, length, WIDTH)
  x, kernel, weight = normal(length, shape, (length, WIDTH), shape)

  @jax.jit
  def read(x, kernel):
    y, pull = jax.vjp(lambda x, kernel: long_convolution(x, kernel, block_size), x, kernel)
    return y, pull(weight)

  y, (for_x, for_kernel) = read(x, kernel)
  close(y, summed(x, kernel))
  backwards = weight[:, ::-1]
  close(for_x, summed(backwards, kernel)[:, ::-1])  # the adjoint reads the other way
  ones = [summed(backwards[b : b + 1], x[b]) for b in range(BATCH)]
  close(for_kernel, sum(ones)[0, ::-1])


@pytest.mark.parametrize(('length', 'block_size'), [(13, 2), (9, 9)])
def test_a_long_convolution_is_causal_to_the_last_bit(length, block_size):
  x, kernel, other = (np.asarray(a) for a in normal(0, (length, 2), (length, 2), (length, 2)))

  @jax.jit
  def convolve(x):
    return long_convolution(x[None], kernel, block_size)[0]

  y = np.asarray(convolve(x))
  for t in range(length):
    changed = np.asarray(convolve(np.concatenate([x[:t], 1e6 * other[t:]])))
    np.testing.assert_array_equal(changed[:t], y[:t])
    assert (changed[t] != y[t]).all()

  field = np.asarray(jax.jit(jax.jacobian(lambda x: convolve(x)[:, 0]))(x))[..., 0]
  np.testing.assert_array_equal(field != 0, np.tri(length, dtype=bool))


@pytest.mark.parametrize('block_size', [1, 4])
def test_what_the_memory_adds_is_the_rest_of_the_sum(block_size):
  capacity, length = 11, 4
  x, kernel = normal(1, (BATCH, capacity, WIDTH), (capacity, WIDTH))
  add = jax.jit(lambda index: from_memory(
    jnp.where(jnp.arange(capacity)[None, :, None] < index, x, 0), kernel, index, length, block_size
  ))
  whole = summed(x, kernel)
  for index in (0, 1, 5, capacity - length):
    now = slice(index, index + length)
    close(add(index), whole[:, now] - summed(x[:, now], kernel[:length]))


def filters(parts, length):
  """h_t, by lag, order and channel: the window times the network with sine activations."""
  time = np.arange(length)[:, None] / LAYER.max_length
  angle = 2 * np.pi * time * np.arange(LAYER.num_frequencies)
  hidden = np.concatenate([time, np.cos(angle), -np.sin(angle)], 1)
  for i in range(3):
    part = parts[f'Dense_{i}']
    hidden = np.sin(LAYER.sine_frequency * (hidden @ part['kernel'] + part['bias']))
  values = np.einsum('tf,fnd->tnd', hidden, parts['DenseGeneral_0']['kernel'])
  for channel in range(WIDTH):  # from 1 % at 1.5 max_length to 1 % at 0.3
    done = 1.5 + (0.3 - 1.5) * channel / (WIDTH - 1)
    values[..., channel] *= 0.01 ** (time / done)
  return values


def test_hyena_is_its_recurrence_of_gates_and_convolutions():
  parameters, x, _ = drawn(LAYER)
  y, _ = apply(parameters, x)
  parts, x = in_float64(parameters['params'], x)
  projected = x @ parts['projection']['kernel'] + parts['projection']['bias']
  projected = causal_depthwise(projected, parts['short']['kernel'], parts['short']['bias'])
  z, *gates = np.split(projected, LAYER.order + 1, -1)
  kernel = filters(parts['filter'], LENGTH)
  for n, gate in enumerate(gates):
    z = gate * (summed(z, kernel[:, n]) + parts['skip'][n] * z)
  close(y, z @ parts['output']['kernel'] + parts['output']['bias'])


def test_hyena_has_the_same_filter_at_every_length_and_capacity():
  parameters, x, _ = drawn(LAYER)
  y = apply(parameters, x)[0]
  close(apply(parameters, x[:, :2])[0], np.asarray(y)[:, :2], 1e-6)
  roomy = LAYER.initial_state(BATCH, 2 * LAYER.max_length, WIDTH)
  close(apply(parameters, x, roomy)[0], np.asarray(y), 1e-6)


def test_hyena_answers_nan_where_there_is_no_room():
  parameters, x, _ = drawn(LAYER)
  state = LAYER.initial_state(BATCH, LENGTH, WIDTH)
  y, state = apply(parameters, x, state)
  assert np.isfinite(y).all() and state.index == LENGTH
  assert np.isnan(apply(parameters, x[:, :1], state)[0]).all()


@pytest.mark.parametrize(
  ('make', 'named'),
  [
    (lambda: Hyena(order=0), 'order >= 1, not 0'),
    (lambda: Hyena(short_kernel_size=0), 'short_kernel_size >= 1, not 0'),
    (lambda: Hyena(max_length=-1), 'max_length >= 1, not -1'),
    (lambda: Hyena(block_size=0), 'block_size >= 1, not 0'),
    (lambda: Hyena(sine_frequency=0.0), 'sine_frequency above 0, not 0.0'),
    (lambda: Hyena(sine_frequency=float('nan')), 'sine_frequency above 0, not nan'),
  ],
)
def test_what_is_no_hyena_is_refused_by_name(make, named):
  with pytest.raises(ValueError, match=named):
    make()
