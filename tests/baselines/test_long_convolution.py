"""Tests of long convolutions against direct sums in float64, and of Hyena against its equations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from baselines.long_convolution import Hyena, convolve_stored_inputs_with_kernel, long_convolution
from tests.support.reference import (
  BATCH,
  LENGTH,
  WIDTH,
  assert_close,
  causal_depthwise_convolution,
  draw_normal_inputs,
  to_float64,
)

LAYER = Hyena(order=3, sine_frequency=1.0, num_frequencies=3, filter_width=5, max_length=9)
apply = jax.jit(LAYER.apply)


def draw_normal_arrays(seed, *shapes):
  generator = np.random.default_rng(seed)
  return [jnp.array(generator.normal(size=shape), jnp.float32) for shape in shapes]


def direct_convolution(x, kernel):
  """y_t = sum over s <= t of kernel_{t - s} x_s."""
  x, kernel = to_float64(x, kernel)
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
def test_a_long_convolution_equals_the_direct_sum_in_value_and_gradient(length, block_size):
  shape = (BATCH, length, WIDTH)
  x, kernel, weight = draw_normal_arrays(length, shape, (length, WIDTH), shape)

  @jax.jit
  def output_and_gradients(x, kernel):
    y, vjp = jax.vjp(lambda x, kernel: long_convolution(x, kernel, block_size), x, kernel)
    return y, vjp(weight)

  y, (x_gradient, kernel_gradient) = output_and_gradients(x, kernel)
  assert_close(y, direct_convolution(x, kernel))
  # The adjoint of a convolution is a convolution in reversed time.
  reversed_weight = weight[:, ::-1]
  assert_close(x_gradient, direct_convolution(reversed_weight, kernel)[:, ::-1])
  products = [direct_convolution(reversed_weight[b : b + 1], x[b]) for b in range(BATCH)]
  assert_close(kernel_gradient, sum(products)[0, ::-1])


@pytest.mark.parametrize(('length', 'block_size'), [(13, 2), (9, 9)])
def test_a_long_convolution_is_exactly_causal(length, block_size):
  shape = length, 2
  x, kernel, noise = (np.asarray(a) for a in draw_normal_arrays(0, shape, shape, shape))

  @jax.jit
  def convolve(x):
    return long_convolution(x[None], kernel, block_size)[0]

  y = np.asarray(convolve(x))
  for t in range(length):
    changed = np.asarray(convolve(np.concatenate([x[:t], 1e6 * noise[t:]])))
    np.testing.assert_array_equal(changed[:t], y[:t])
    assert (changed[t] != y[t]).all()

  jacobian = np.asarray(jax.jit(jax.jacobian(lambda x: convolve(x)[:, 0]))(x))[..., 0]
  np.testing.assert_array_equal(jacobian != 0, np.tri(length, dtype=bool))


@pytest.mark.parametrize('block_size', [1, 4])
def test_the_contribution_of_stored_inputs_completes_the_sum(block_size):
  capacity, length = 11, 4
  x, kernel = draw_normal_arrays(1, (BATCH, capacity, WIDTH), (capacity, WIDTH))
  contribution = jax.jit(lambda index: convolve_stored_inputs_with_kernel(
    jnp.where(jnp.arange(capacity)[None, :, None] < index, x, 0), kernel, index, length, block_size
  ))
  total = direct_convolution(x, kernel)
  for index in (0, 1, 5, capacity - length):
    interval = slice(index, index + length)
    recent = direct_convolution(x[:, interval], kernel[:length])
    assert_close(contribution(index), total[:, interval] - recent)


def reference_filters(parts, length):
  """The filters h_t [T, N, D], a window times a network with sine activations."""
  time = np.arange(length)[:, None] / LAYER.max_length
  angle = 2 * np.pi * time * np.arange(LAYER.num_frequencies)
  hidden = np.concatenate([time, np.cos(angle), -np.sin(angle)], 1)
  for i in range(3):
    part = parts[f'Dense_{i}']
    hidden = np.sin(LAYER.sine_frequency * (hidden @ part['kernel'] + part['bias']))
  values = np.einsum('tf,fnd->tnd', hidden, parts['DenseGeneral_0']['kernel'])
  # The window of the first channel decays to 1 % at a distance of 1.5 max_length.
  # The window of the last channel decays to 1 % at a distance of 0.3 max_length.
  for channel in range(WIDTH):
    window_length = 1.5 + (0.3 - 1.5) * channel / (WIDTH - 1)
    values[..., channel] *= 0.01 ** (time / window_length)
  return values


def test_hyena_equals_the_equations_of_its_paper():
  parameters, x, _ = draw_normal_inputs(LAYER)
  y, _ = apply(parameters, x)
  parts, x = to_float64(parameters['params'], x)
  projected = x @ parts['projection']['kernel'] + parts['projection']['bias']
  projected = causal_depthwise_convolution(projected, **parts['short'])
  z, *gates = np.split(projected, LAYER.order + 1, -1)
  kernel = reference_filters(parts['filter'], LENGTH)
  for n, gate in enumerate(gates):
    z = gate * (direct_convolution(z, kernel[:, n]) + parts['skip'][n] * z)
  assert_close(y, z @ parts['output']['kernel'] + parts['output']['bias'])


def test_hyena_filters_do_not_depend_on_length_or_capacity():
  parameters, x, _ = draw_normal_inputs(LAYER)
  y = apply(parameters, x)[0]
  assert_close(apply(parameters, x[:, :2])[0], np.asarray(y)[:, :2], 1e-6)
  large_state = LAYER.initial_state(BATCH, 2 * LAYER.max_length, WIDTH)
  assert_close(apply(parameters, x, large_state)[0], np.asarray(y), 1e-6)


def test_hyena_returns_nan_beyond_its_capacity():
  parameters, x, _ = draw_normal_inputs(LAYER)
  state = LAYER.initial_state(BATCH, LENGTH, WIDTH)
  y, state = apply(parameters, x, state)
  assert np.isfinite(y).all() and state.index == LENGTH
  assert np.isnan(apply(parameters, x[:, :1], state)[0]).all()


@pytest.mark.parametrize(
  ('construct', 'message'),
  [
    (lambda: Hyena(order=0), 'order >= 1, not 0'),
    (lambda: Hyena(short_kernel_size=0), 'short_kernel_size >= 1, not 0'),
    (lambda: Hyena(max_length=-1), 'max_length >= 1, not -1'),
    (lambda: Hyena(block_size=0), 'block_size >= 1, not 0'),
    (lambda: Hyena(sine_frequency=0.0), 'sine_frequency above 0, not 0.0'),
    (lambda: Hyena(sine_frequency=float('nan')), 'sine_frequency above 0, not nan'),
  ],
)
def test_invalid_hyena_options_raise_an_error(construct, message):
  with pytest.raises(ValueError, match=message):
    construct()
