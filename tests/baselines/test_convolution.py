"""Tests that convolutional layers match the equations of their papers, in loops in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from baselines.causal_convolution import (
  FORMS,
  MAX_NARROW_WIDTH,
  depthwise_convolution,
  dilated_convolution,
)
from baselines.convolution import TCN, Convolution, ShortConvolution
from baselines.deep_convolution import ByteNet, ConvS2S, GatedConvolution
from tests.support.float64 import float64_enabled
from tests.support.reference import (
  assert_close,
  causal_depthwise_convolution,
  draw_normal_inputs,
  logistic,
  to_float64,
)


def reference_convolution(x, past, kernel, bias, dilation):
  """y_t = b + sum_j W_j x_{t - j d}, with the kernel in the order W_{k-1}, ..., W_0."""
  inputs, size = np.concatenate([past, x], 1), len(kernel)
  y = np.zeros((*x.shape[:2], kernel.shape[2]))
  for b, t in np.ndindex(*x.shape[:2]):
    y[b, t] = bias
    for j in range(size):
      y[b, t] += inputs[b, past.shape[1] + t - j * dilation] @ kernel[size - 1 - j]
  return y


def weight_normalized_kernel(part):
  """The kernel of each output as a scale times a direction (Salimans and Kingma 2016)."""
  kernel = np.zeros(part['kernel'].shape)
  for f in range(kernel.shape[2]):
    direction = part['kernel'][..., f]
    kernel[..., f] = part['scale'][..., f].item() * direction / np.sqrt(np.sum(direction**2))
  return kernel


def run_layer(layer, **options):
  """The output and last state of a layer, and its parameters, input and state in float64."""
  parameters, x, state = draw_normal_inputs(layer, **options)
  y, after = jax.jit(layer.apply)(parameters, x, state)
  return y, after, *to_float64(parameters['params'], x, state)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('weight_norm', [False, True])
def test_a_convolution_equals_its_defining_sum(form, weight_norm):
  layer = Convolution(3, dilation=2, weight_norm=weight_norm, form=form)
  y, after, part, x, state = run_layer(layer)
  kernel = weight_normalized_kernel(part) if weight_norm else part['kernel']
  assert_close(y, reference_convolution(x, state, kernel, part['bias'], 2))
  assert_close(after, x[:, -4:])


@pytest.mark.parametrize('use_bias', [True, False])
def test_a_short_convolution_is_a_separate_sum_in_each_channel(use_bias):
  y, after, part, x, state = run_layer(ShortConvolution(3, use_bias))
  inputs = np.concatenate([state, x], 1)
  expected = causal_depthwise_convolution(inputs, part['kernel'], part.get('bias', 0.0))
  assert_close(y, expected[:, 2:])
  assert_close(after, x[:, -2:])


def test_a_tcn_equals_its_residual_blocks():
  y, _, parts, expected, state = run_layer(TCN(2, levels=3))
  for level in range(3):
    residual = expected
    for index in range(2):
      part, past = parts[f'level_{level}_convolution_{index}'], state[2 * level + index]
      kernel = weight_normalized_kernel(part)
      expected = reference_convolution(expected, past, kernel, part['bias'], 2**level)
      expected = np.maximum(expected, 0)
    expected = np.maximum(residual + expected, 0)
  assert_close(y, expected)
  assert (expected > 0).mean() > 0.2  # The ReLU does not set all outputs to 0.


def test_bytenet_equals_its_residual_blocks():
  y, _, parts, x, state = run_layer(ByteNet(2, levels=3, max_dilation=2), width=6)

  def normalize_and_activate(x, name):
    mean = x.mean(-1, keepdims=True)
    x = (x - mean) / np.sqrt(np.mean((x - mean) ** 2, -1, keepdims=True) + 1e-6)
    return np.maximum(x * parts[name]['scale'] + parts[name]['bias'], 0)

  def dense(x, name):
    return x @ parts[name]['kernel'] + parts[name]['bias']

  for level, dilation in enumerate([1, 2, 1]):
    norms = [f'LayerNorm_{3 * level + i}' for i in range(3)]
    part = parts[f'level_{level}_convolution_0']
    inner = dense(normalize_and_activate(x, norms[0]), f'Dense_{2 * level}')
    inner = normalize_and_activate(inner, norms[1])
    inner = reference_convolution(inner, state[level], part['kernel'], part['bias'], dilation)
    assert inner.shape[2] == 3
    x = x + dense(normalize_and_activate(inner, norms[2]), f'Dense_{2 * level + 1}')
  assert_close(y, x)


def test_convs2s_equals_its_gated_residual_blocks():
  y, _, parts, x, state = run_layer(ConvS2S(2, levels=3))
  for level in range(3):
    part = parts[f'level_{level}_convolution_0']
    kernel = weight_normalized_kernel(part)
    filters = reference_convolution(x, state[level], kernel, part['bias'], 1)
    a, b = np.split(filters, 2, -1)
    x = np.sqrt(0.5) * (x + a * logistic(b))
  assert_close(y, x)


def test_initial_weights_of_a_gated_convolution_are_twice_as_large():
  x = jnp.zeros((1, 1, 64))
  for layer, deviation in ((Convolution(3), 1), (GatedConvolution(3), 2)):  # section 3.5
    kernel = jax.jit(layer.init)(jax.random.key(0), x)['params']['kernel']
    np.testing.assert_allclose(jnp.std(kernel), deviation / np.sqrt(3 * 64), rtol=0.05)


@settings(deadline=None, max_examples=8)
@given(
  st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.booleans(), st.integers(1, 3),
  st.sampled_from([2, MAX_NARROW_WIDTH + 1]),
)
@example(size=1, dilation=3, extra=1, pad=False, batch_size=2, features=2)
@example(size=3, dilation=4, extra=1, pad=True, batch_size=2, features=2)
@example(size=3, dilation=2, extra=517, pad=True, batch_size=1, features=MAX_NARROW_WIDTH + 1)
@example(size=3, dilation=2, extra=517, pad=False, batch_size=2, features=MAX_NARROW_WIDTH + 1)
def test_both_forms_of_a_convolution_are_equal_in_value_and_gradient(
  size, dilation, extra, pad, batch_size, features
):
  generator = np.random.default_rng(size)
  padding = (size - 1) * dilation if pad else 0
  length = (size - 1) * dilation + extra - padding
  x, kernel, weight = (
    generator.normal(size=shape)
    for shape in ((batch_size, length, 3), (size, 3, features), (batch_size, extra, features)))

  @functools.partial(jax.jit, static_argnums=2)
  def gradients_and_output(x, kernel, form):
    def loss(x, kernel):
      y = dilated_convolution(x, kernel, dilation, form, padding)
      return jnp.sum(weight * jnp.sin(y)), y

    return jax.grad(loss, (0, 1), has_aux=True)(x, kernel)

  with float64_enabled():
    results = [jax.tree.leaves(gradients_and_output(x, kernel, form)) for form in FORMS[1:]]
  for direct, channels_last in zip(*results, strict=True):
    np.testing.assert_allclose(direct, channels_last, atol=1e-9)
  assert direct.shape == (batch_size, extra, features)


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 5), st.integers(1, 6), st.booleans())
@example(size=4, length=1, pad=True)  # shorter than the kernel
@example(size=4, length=9, pad=False)
def test_gradients_of_a_depthwise_convolution_match_automatic_differentiation(size, length, pad):
  padding = size - 1 if pad else 0
  length = max(length, size - padding)
  generator = np.random.default_rng(size)
  with float64_enabled():
    x, kernel = (jnp.array(generator.normal(size=s)) for s in ((2, length, 3), (size, 3)))
    weight = generator.normal(size=(2, length + padding - size + 1, 3))

    def equation(x, kernel):
      inputs = jnp.concatenate([jnp.zeros((2, padding, 3)), x], 1)
      return sum(inputs[:, j : j + weight.shape[1]] * kernel[j][None, None] for j in range(size))

    def value_and_gradients(function):
      y, vjp = jax.vjp(function, x, kernel)
      return y, vjp(weight)

    jax.tree.map(
      functools.partial(np.testing.assert_allclose, atol=1e-12),
      jax.jit(lambda: value_and_gradients(lambda *a: depthwise_convolution(*a, padding)))(),
      value_and_gradients(equation))


@pytest.mark.parametrize(
  ('kernel_size', 'levels', 'field'), [(8, 8, 3571), (6, 9, 5111), (2, 1, 3), (1, 5, 1)]
)
def test_the_receptive_field_of_a_tcn_is_as_published(kernel_size, levels, field):
  assert TCN(kernel_size, levels).receptive_field == field


def test_the_receptive_fields_of_bytenet_and_convs2s_are_as_published():
  assert ByteNet(3, levels=30).receptive_field == 1 + 6 * 2 * (1 + 2 + 4 + 8 + 16)  # six sets
  assert ConvS2S(5, levels=6).receptive_field == 25  # Gehring et al. 2017, section 3.2


def test_weight_normalization_separates_direction_and_norm():
  plain, layer = Convolution(3), Convolution(3, weight_norm=True)
  _, x, state = draw_normal_inputs(plain)
  apply = jax.jit(layer.apply)
  parameters = jax.jit(layer.init)(jax.random.key(0), x)['params']

  def output_with(**changed):
    return np.asarray(apply({'params': {**parameters, **changed}}, x, state)[0])

  y = output_with()
  unnormalized = {'params': {name: parameters[name] for name in ('kernel', 'bias')}}
  expected, _ = jax.jit(plain.apply)(unnormalized, x, state)
  np.testing.assert_allclose(y, expected, atol=1e-6)
  np.testing.assert_allclose(output_with(kernel=7 * parameters['kernel']), y, atol=1e-5)
  np.testing.assert_allclose(output_with(scale=7 * parameters['scale']), 7 * y, atol=1e-4)
  assert not parameters['bias'].any()

  zero = parameters | {'kernel': 0 * parameters['kernel']}  # zeros have no direction
  gradient = jax.grad(lambda p: jnp.sum(layer.apply({'params': p}, x, state)[0]))(zero)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
  ('construct', 'message'),
  [
    (lambda: Convolution(0), 'kernel_size >= 1, not 0'),
    (lambda: Convolution(3, dilation=0), 'dilation >= 1, not 0'),
    (lambda: ShortConvolution(0), 'kernel_size >= 1, not 0'),
    (lambda: TCN(3, levels=0), 'levels >= 1, not 0'),
    (lambda: TCN(3, form='folded'), 'folded.*auto, direct, channels_last'),
    (lambda: ConvS2S(levels=0), 'levels >= 1, not 0'),
    (lambda: ByteNet(max_dilation=0), 'power of 2 as max_dilation, not 0'),
    (lambda: ByteNet(max_dilation=12), 'power of 2 as max_dilation, not 12'),
    (lambda: ByteNet().initial_state(1, 1, 7), 'width of 7.*multiples of 2'),
  ],
)
def test_invalid_convolution_options_raise_an_error(construct, message):
  with pytest.raises(ValueError, match=message):
    construct()
