"""The rivals against their papers' equations, one step at a time in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference import BATCH, LENGTH, WIDTH, drawn, in_float64, logistic

from baselines.convolution import FORMS, TCN, Convolution, dilated_convolution
from baselines.recurrent import GRU, LSTM, Elman, sigmoid


def elman(x, state, w, u, b):
  (h,) = state
  return (np.tanh(x @ w + h @ u + b),)


def lstm(x, state, w, u, b):
  """Gers et al. 2000; the gates stand side by side as input, forget, cell, output."""
  h, c = state
  (wi, wf, wg, wo), (ui, uf, ug, uo), (bi, bf, bg, bo) = (np.split(a, 4, -1) for a in (w, u, b))
  i, f = logistic(x @ wi + h @ ui + bi), logistic(x @ wf + h @ uf + bf)
  o, g = logistic(x @ wo + h @ uo + bo), np.tanh(x @ wg + h @ ug + bg)
  c = f * c + i * g
  return o * np.tanh(c), c


def gru(x, state, w, u, b):
  """Cho et al. 2014 with the reset gate after the product, as cuDNN has it: reset, update, new."""
  (h,) = state
  (wr, wu, wn), (ur, uu, un), (br, bu, bn) = (np.split(a, 3, -1) for a in (w, u, b))
  r, z = logistic(x @ wr + h @ ur + br), logistic(x @ wu + h @ uu + bu)
  n = np.tanh(x @ wn + bn + r * (h @ un))
  return ((1 - z) * n + z * h,)


def convolved(x, past, kernel, bias, dilation):
  """y_t = b + sum_j W_j x_{t - j d}; the kernel stands as W_{k-1}, ..., W_0."""
  read, size = np.concatenate([past, x], 1), len(kernel)
  y = np.zeros((*x.shape[:2], kernel.shape[2]))
  for b, t in np.ndindex(*x.shape[:2]):
    y[b, t] = bias
    for j in range(size):
      y[b, t] += read[b, past.shape[1] + t - j * dilation] @ kernel[size - 1 - j]
  return y


def normalised(part):
  """A weight-normalised kernel: scale times direction, for each output (Salimans, Kingma 2016)."""
  kernel = np.zeros(part['kernel'].shape)
  for f in range(kernel.shape[2]):
    direction = part['kernel'][..., f]
    kernel[..., f] = part['scale'][..., f].item() * direction / np.sqrt(np.sum(direction**2))
  return kernel


RECURRENT = {'elman': (Elman(), elman), 'lstm': (LSTM(), lstm), 'gru': (GRU(), gru)}


@pytest.mark.parametrize('name', RECURRENT)
def test_a_recurrent_layer_is_its_equation_step_by_step(name):
  layer, step = RECURRENT[name]
  parameters, x, state = drawn(layer)
  y, after = jax.jit(layer.apply)(parameters, x, state)
  weights, x, state = in_float64(parameters['params'], x, state)
  w, u, b = weights['input']['kernel'], weights['recurrent'], weights['input']['bias']
  for t in range(LENGTH):
    state = step(x[:, t], state, w, u, b)
    np.testing.assert_allclose(y[:, t], state[0], atol=1e-5)
  for found, expected in zip(after, state, strict=True):
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize('forget_bias', [1.0, 2.5, 0.0])
def test_an_lstm_starts_by_keeping_sigmoid_of_the_forget_bias_of_its_sum(forget_bias):
  layer = LSTM() if forget_bias == 1 else LSTM(forget_bias)  # 1 is the default
  nothing, ones = jnp.zeros((BATCH, 1, WIDTH)), jnp.ones((BATCH, WIDTH))
  parameters = jax.jit(layer.init)(jax.random.key(0), nothing)
  _, (h, c) = jax.jit(layer.apply)(parameters, nothing, (0 * ones, ones))
  np.testing.assert_allclose(c, logistic(forget_bias), atol=1e-6)
  np.testing.assert_allclose(h, 0.5 * np.tanh(logistic(forget_bias)), atol=1e-6)  # gate half open


def test_sigmoid_is_the_logistic_function_at_its_ends_too():
  x = np.array([-1e4, -90, -3, 0, 0.5, 90, 1e4], np.float32)
  expected = [0, 0, logistic(-3), 0.5, logistic(0.5), 1, 1]
  np.testing.assert_allclose(sigmoid(jnp.array(x)), expected, atol=1e-7)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('weight_norm', [False, True])
def test_a_convolution_is_its_sum(form, weight_norm):
  layer = Convolution(3, dilation=2, weight_norm=weight_norm, form=form)
  parameters, x, state = drawn(layer)
  y, after = jax.jit(layer.apply)(parameters, x, state)
  part, x, state = in_float64(parameters['params'], x, state)
  kernel = normalised(part) if weight_norm else part['kernel']
  np.testing.assert_allclose(y, convolved(x, state, kernel, part['bias'], 2), atol=1e-5)
  np.testing.assert_allclose(after, x[:, -4:], atol=1e-6)


def test_a_tcn_is_its_residual_blocks():
  layer = TCN(2, levels=3)
  parameters, x, state = drawn(layer)
  y, _ = jax.jit(layer.apply)(parameters, x, state)
  parts, expected, state = in_float64(parameters['params'], x, state)
  for level in range(3):
    residual = expected
    for which in range(2):
      part, past = parts[f'level_{level}_convolution_{which}'], state[2 * level + which]
      expected = convolved(expected, past, normalised(part), part['bias'], 2**level)
      expected = np.maximum(expected, 0)
    expected = np.maximum(residual + expected, 0)
  np.testing.assert_allclose(y, expected, atol=1e-5)
  assert (expected > 0).mean() > 0.2  # not all of it cut off


@settings(deadline=None, max_examples=12)
@given(size=st.integers(1, 5), dilation=st.integers(1, 4), extra=st.integers(1, 6))
@example(size=1, dilation=3, extra=1)
@example(size=3, dilation=4, extra=1)
def test_both_forms_of_a_convolution_are_equal_in_value_and_gradient(size, dilation, extra):
  generator = np.random.default_rng(size)
  x = generator.normal(size=(2, (size - 1) * dilation + extra, 3)).astype(np.float32)
  kernel = generator.normal(size=(size, 3, 2)).astype(np.float32)
  weight = generator.normal(size=(2, extra, 2)).astype(np.float32)

  @functools.partial(jax.jit, static_argnums=2)
  def both(x, kernel, form):
    def loss(x, kernel):
      y = dilated_convolution(x, kernel, dilation, form)
      return jnp.sum(weight * jnp.sin(y)), y

    return jax.grad(loss, (0, 1), has_aux=True)(x, kernel)

  pairs = zip(*(jax.tree.leaves(both(x, kernel, form)) for form in FORMS[1:]), strict=True)
  for direct, unfolded in pairs:
    np.testing.assert_allclose(direct, unfolded, atol=1e-5)
  assert direct.shape == (2, extra, 2)


@pytest.mark.parametrize(
  ('kernel_size', 'levels', 'field'), [(8, 8, 3571), (6, 9, 5111), (2, 1, 3), (1, 5, 1)]
)
def test_the_receptive_field_of_a_tcn_is_the_published_one(kernel_size, levels, field):
  assert TCN(kernel_size, levels).receptive_field == field


def test_weight_normalisation_parts_a_kernel_into_direction_and_length():
  plain, layer = Convolution(3), Convolution(3, weight_norm=True)
  _, x, state = drawn(plain)
  apply = jax.jit(layer.apply)
  parameters = jax.jit(layer.init)(jax.random.key(0), x)['params']

  def read(**changed):
    return np.asarray(apply({'params': {**parameters, **changed}}, x, state)[0])

  y = read()
  unnormalised = {'params': {name: parameters[name] for name in ('kernel', 'bias')}}
  at_the_start, _ = jax.jit(plain.apply)(unnormalised, x, state)
  np.testing.assert_allclose(y, at_the_start, atol=1e-6)
  np.testing.assert_allclose(read(kernel=7 * parameters['kernel']), y, atol=1e-5)
  np.testing.assert_allclose(read(scale=7 * parameters['scale']), 7 * y, atol=1e-4)
  assert not parameters['bias'].any()


@pytest.mark.parametrize(
  ('make', 'named'),
  [
    (lambda: Convolution(0), 'kernel_size >= 1, not 0'),
    (lambda: Convolution(3, dilation=0), 'dilation >= 1, not 0'),
    (lambda: TCN(3, levels=0), 'levels >= 1, not 0'),
    (lambda: TCN(3, form='folded'), 'folded.*auto, direct, unfolded'),
  ],
)
def test_what_is_no_convolution_is_refused_by_name(make, named):
  with pytest.raises(ValueError, match=named):
    make()
