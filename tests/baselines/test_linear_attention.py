"""Tests that linear attention, RetNet, GLA and Mamba-2 match the recurrences of their papers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from baselines.linear_attention import GLA, LinearAttention, RetNet, elu_plus_one
from baselines.mamba2 import Mamba2
from tests.support.reference import (
  assert_close,
  causal_depthwise_convolution,
  draw_normal_inputs,
  logistic,
  rms_norm,
  silu,
  softplus,
  to_float64,
)

WIDTH, HEADS = 8, 2
FEATURES = {
  'elu': lambda x: np.where(x > 0, x + 1, np.exp(x)),
  'softmax': lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
}


def matrix_recurrence(query, key, value, decay, state):
  """S_t = diag(a_t) S_{t-1} + k_t v_t^T and y_t = S_t^T q_t for [B, T, H, .], in a loop."""
  y, state = np.zeros(value.shape), state.copy()
  decay = np.broadcast_to(decay, key.shape)
  for b, t, h in np.ndindex(*value.shape[:3]):
    state[b, h] = decay[b, t, h][:, None] * state[b, h] + np.outer(key[b, t, h], value[b, t, h])
    y[b, t, h] = state[b, h].T @ query[b, t, h]
  return y, state


def linear_projection(x, part):
  return np.tensordot(x, part['kernel'], 1) + part.get('bias', 0.0)


def gated_output(y, gate, weights):
  """W (swish(gate) * norm(y)), with mean 0 and variance 1 in each head."""
  y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-6)
  y = y * weights['norm']['scale'] + weights['norm']['bias']
  return np.tensordot(silu(gate) * y, weights['output']['kernel'], 2)


def reference_linear_attention(layer, x, state, weights):
  """Linear attention whose normalizer z, the last column of the state, must not be near zero."""
  query, key, value = np.moveaxis(linear_projection(x, weights['projection']), 2, 0)
  phi, ones = FEATURES[layer.feature_map], np.ones((*value.shape[:3], 1))
  y, after = matrix_recurrence(phi(query), phi(key), np.concatenate([value, ones], -1), 1.0, state)
  return np.tensordot(y[..., :-1] / y[..., -1:], weights['output']['kernel'], 2), after


def apply_rotary_positions(x, start, frequencies):
  """Each pair of channels (i, i + K/2), as a complex number, times exp(i t frequency_i)."""
  half = x.shape[-1] // 2
  frequency = {
    'rope': 10000.0 ** (-np.arange(half) / half),
    'torchscale': 1 / 10000.0 ** np.linspace(0, 1, half),
  }[frequencies]
  angle = (start + np.arange(x.shape[1]))[:, None] * frequency
  z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angle)[None, :, None]
  return np.concatenate([z.real, z.imag], -1)


def reference_retention(layer, x, state, weights):
  memory, index = state
  query, key = np.moveaxis(linear_projection(x, weights['query_key']), 2, 0)
  value, gate = np.moveaxis(linear_projection(x, weights['value_gate']), 2, 0)
  query, key = (apply_rotary_positions(a, index, layer.frequencies) for a in (query, key))
  query = query / np.sqrt(query.shape[-1])
  gamma = np.array([1 - 2.0 ** (-5 - h) for h in range(layer.num_heads)])
  y, memory = matrix_recurrence(query, key, value, gamma[:, None], memory)
  return gated_output(y, gate, weights), (memory, index + x.shape[1])


def reference_gla(layer, x, state, weights):
  query, key = np.moveaxis(linear_projection(x, weights['query_key']), 2, 0)
  decay = linear_projection(linear_projection(x, weights['decay_down']), weights['decay_up'])
  decay = logistic(decay) ** (1 / layer.temperature)
  value, gate = linear_projection(x, weights['value']), linear_projection(x, weights['gate'])
  y, state = matrix_recurrence(query / np.sqrt(query.shape[-1]), key, value, decay, state)
  return gated_output(y, gate, weights), state


def reference_mamba2(layer, x, state, weights):
  past, memory = state
  inner, size = layer.expand * WIDTH, layer.state_size
  gate, convolved, step = np.split(
    linear_projection(x, weights['input']), (inner, 2 * inner + 2 * size), -1
  )
  inputs = np.concatenate([past, convolved], 1)
  part = weights['convolution']
  convolved = causal_depthwise_convolution(inputs, part['kernel'], part['bias'])
  convolved = silu(convolved[:, past.shape[1]:])
  value, key, query = np.split(convolved, (inner, inner + size), -1)
  value = value.reshape(*value.shape[:2], layer.num_heads, -1)
  step = softplus(step + weights['step_bias'])[..., None]
  decay = np.exp(-step * np.exp(weights['log_rate'])[:, None])
  if layer.eigenvalues == '[-1,1]':
    decay = 2 * decay - 1
    assert (decay < 0).any() and (decay > 0).any()
  query, key = (np.repeat(a[:, :, None], layer.num_heads, 2) for a in (query, key))
  y, memory = matrix_recurrence(query, key, step * value, decay, memory)
  y = (y + weights['skip'][:, None] * value).reshape(gate.shape)
  y = rms_norm(y * silu(gate), weights['norm']['scale'], 1e-5)
  return linear_projection(y, weights['output']), (inputs[:, -past.shape[1]:], memory)


LAYERS = (
  *((LinearAttention(HEADS, 4, feature_map=name), reference_linear_attention) for name in FEATURES),
  (RetNet(HEADS, chunk_size=4), reference_retention),
  (RetNet(HEADS, chunk_size=4, frequencies='torchscale'), reference_retention),
  # A single pair of channels, with frequency 1.
  (RetNet(4, chunk_size=4, frequencies='torchscale'), reference_retention),
  (GLA(HEADS, chunk_size=4, gate_rank=3), reference_gla),
  (GLA(HEADS, key_expand=1.0, value_expand=2.0, gate_rank=3, temperature=2.0), reference_gla),
  (Mamba2(HEADS, 3, chunk_size=4), reference_mamba2),
  (Mamba2(4, 3, expand=1, kernel_size=2, eigenvalues='[-1,1]', chunk_size=2), reference_mamba2),
)


def draw_layer_inputs(layer):
  """Parameters, an input and an initial state with valid positions and normalizers."""
  parameters, x, state = draw_normal_inputs(layer, width=WIDTH)
  if isinstance(layer, LinearAttention):  # The normalizer is a sum of positive numbers.
    state = state.at[..., -1].set(1 + jnp.abs(state[..., -1]))
  if isinstance(layer, RetNet):
    state = state._replace(index=jnp.int32(5))
  return parameters, x, state


@pytest.mark.parametrize(('layer', 'reference'), LAYERS)
def test_a_layer_equals_the_recurrence_of_its_paper(layer, reference):
  parameters, x, state = draw_layer_inputs(layer)
  actual = jax.jit(layer.apply)(parameters, x, state)
  weights, x, state = to_float64(parameters['params'], x, state)
  expected = reference(layer, x, state, weights)
  assert np.abs(expected[0]).max() > 0.1
  for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    assert_close(a, e)


@pytest.mark.parametrize(
  ('layer', 'state'),
  [
    (LinearAttention(), (4, 8, 9)), (RetNet(), (4, 8, 16)), (GLA(), (4, 4, 8)),
    (Mamba2(), (4, 64, 16)),
  ],
)
def test_default_state_widths_are_as_published(layer, state):
  leaves = jax.tree.leaves(layer.initial_state(1, 0, 32))
  assert state in [leaf.shape[1:] for leaf in leaves]
  assert 32 % layer.required_width_divisor == 0


@pytest.mark.parametrize('layer', [LinearAttention(6), RetNet(6), GLA(3, key_expand=1 / 3)])
def test_heads_have_equal_widths_at_multiples_of_the_width_divisor(layer):
  for factor in (1, 2, 5):
    key, value = layer.head_widths(factor * layer.required_width_divisor)
    assert key * layer.num_heads == round(layer.key_expand * factor * layer.required_width_divisor)
    assert value * layer.num_heads == layer.value_expand * factor * layer.required_width_divisor
    assert key % layer.key_multiple == 0
  with pytest.raises(ValueError, match=f'multiples of {layer.required_width_divisor}'):
    layer.head_widths(layer.required_width_divisor + 1)


def test_mamba2_starts_with_the_published_steps_and_decay_rates():
  parameters = jax.jit(Mamba2(512, 2).init)(jax.random.key(0), jnp.zeros((1, 1, 256)))['params']
  step, rate = softplus(to_float64(parameters['step_bias'])[0]), np.exp(parameters['log_rate'])
  assert 1e-3 < step.min() < 1.2e-3 and 0.08 < step.max() < 0.1
  assert abs(np.log(step).mean() - np.log(1e-2)) < 0.15  # uniform in the logarithm
  assert 1 < rate.min() < 1.2 and 15.8 < rate.max() < 16


def test_elu_plus_one_is_accurate_for_negative_inputs():
  x = np.array([-80, -20, -15, -3, 0, 0.5, 90], np.float32)
  exact = FEATURES['elu'](x.astype(float))
  np.testing.assert_allclose(elu_plus_one(jnp.array(x)), exact, rtol=1e-6)
  derivative = jax.vmap(jax.grad(elu_plus_one))(jnp.array(x))
  np.testing.assert_allclose(derivative, np.minimum(exact, 1), rtol=1e-6)


def test_linear_attention_is_accurate_at_any_scale_of_keys_and_queries():
  layer, width = LinearAttention(1), 2
  generator = np.random.default_rng(0)
  x = generator.normal(0, 1, (1, 5, width)).astype(np.float32)
  x[..., 0] = 1 - x[..., 1]  # The inputs of both channels add up to 1.
  empty_state = np.zeros((1, 1, width, width + 1))

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def gradient_and_output(x, parameters):
    y, _ = layer.apply({'params': parameters}, x)
    return jnp.sum(jnp.sin(y)), y

  for level in (-40.0, -20.0, -10.0, -1.0, 3.0):
    kernel = np.zeros((width, 3, 1, width), np.float32)  # queries and keys near the level
    kernel[:, :2] = level + generator.normal(0, 0.1, (width, 2, 1, width))
    kernel[:, 2, 0] = np.eye(width)
    parameters = {'projection': {'kernel': kernel}, 'output': {'kernel': np.eye(width)[None]}}
    weights, exact = to_float64(parameters, x)
    gradient, y = gradient_and_output(x, parameters)
    assert_close(y, reference_linear_attention(layer, exact, empty_state, weights)[0], 1e-4)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize(
  ('construct', 'message'),
  [
    (lambda: GLA(0), 'GLA needs num_heads >= 1, not 0'),
    (lambda: GLA(gate_rank=0), 'gate_rank >= 1, not 0'),
    (lambda: GLA(temperature=-1.0), 'temperature > 0, not -1.0'),
    (lambda: RetNet(value_expand=0.0), 'value_expand > 0, not 0.0'),
    (lambda: RetNet(chunk_size=3), 'power of two.*not 3'),
    (lambda: RetNet(frequencies='xpos'), "frequencies 'xpos'; there are rope, torchscale"),
    (lambda: LinearAttention(feature_map='cosine'), "'cosine'.*elu, softmax"),
    (lambda: Mamba2(state_size=0), 'Mamba2 needs state_size >= 1, not 0'),
    (lambda: Mamba2(eigenvalues='[0,2]'), r'\[0,2\]'),
    (lambda: Mamba2(chunk_size=-1), 'power of two.*not -1'),
    (lambda: Mamba2(6, expand=4).head_width(4), 'multiples of 3'),
  ],
)
def test_invalid_linear_attention_options_raise_an_error(construct, message):
  with pytest.raises(ValueError, match=message):
    construct()
