"""Non-causal attention and cross-attention match the paper's equations in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.reference import assert_close
from transformer.attention import Attention
from transformer.cross_attention import CrossAttention
from transformer.positions import POSITIONS

BATCH, LENGTH, SOURCE, WIDTH, HEADS = 2, 5, 7, 8, 2
WIDTHS = ({}, {'key_width': 6, 'value_width': 3, 'use_bias': True})
NONE = POSITIONS['none']()


def reference_attention(query, key, value, valid):
  """Equation 1 for queries [B, T, H, K] and keys [B, S, H, K], one query at a time."""
  y = np.zeros((*query.shape[:3], value.shape[3]))
  for b, t, h in np.ndindex(*query.shape[:3]):
    allowed = np.flatnonzero(valid[b])
    score = key[b, allowed, h] @ query[b, t, h] / np.sqrt(query.shape[3])
    weight = np.exp(score - score.max(initial=-np.inf))
    y[b, t, h] = weight @ value[b, allowed, h] / weight.sum() if len(allowed) else 0
  return y


def project_to_heads(x, parameters):
  """Projects x [B, T, D] with kernel and bias to heads [B, T, H, K]."""
  y = np.einsum('BTD,DHK->BTHK', x, parameters['kernel'])
  return y + parameters['bias'] if 'bias' in parameters else y


def project_heads_to_output(y, parameters):
  """Projects the outputs of all heads [B, T, H, K] to [B, T, D]."""
  y = np.einsum('BTHK,HKD->BTD', y, parameters['output']['kernel'])
  return y + parameters['output']['bias'] if 'bias' in parameters['output'] else y


@functools.cache
def cross_attention_inputs():
  """Returns target inputs, a source, and the mask of its valid tokens."""
  generator = np.random.default_rng(0)
  x, memory = (generator.normal(size=(BATCH, n, WIDTH)).astype(np.float32)
               for n in (LENGTH, SOURCE))
  valid = np.array([[1, 1, 0, 1, 1, 1, 0], [1, 0, 1, 0, 0, 0, 0]], bool)
  return x, memory, valid


def normal_parameters(module, *arguments, **options):
  """Parameters, including biases, from a normal distribution."""
  generator = np.random.default_rng(1)
  shapes = jax.eval_shape(functools.partial(module.init, **options), jax.random.key(0), *arguments)
  return jax.tree.map(lambda s: jnp.array(generator.normal(0, 0.5, s.shape), jnp.float32), shapes)


@pytest.mark.parametrize('form', ['naive', 'blocked'])
@pytest.mark.parametrize('widths', WIDTHS, ids=['equal', 'unequal'])
def test_noncausal_attention_matches_equation_1(widths, form):
  layer = Attention(HEADS, NONE, causal=False, form=form, **widths)
  _, x, valid = cross_attention_inputs()
  parameters = normal_parameters(layer, x)
  weights = jax.tree.map(lambda p: np.asarray(p, np.float64), parameters['params'])
  heads = project_to_heads(x, weights['projection'])
  if widths:
    query, key = np.split(heads, 2, 2)
    value = project_to_heads(x, weights['value_projection'])
  else:
    query, key, value = np.split(heads, 3, 2)
  expected = project_heads_to_output(reference_attention(query, key, value, valid), weights)
  y = jax.jit(layer.apply)(parameters, x, mask=valid)[0]
  assert_close(np.asarray(y)[valid], expected[valid])


@pytest.mark.parametrize('form', ['naive', 'blocked'])
@pytest.mark.parametrize('widths', WIDTHS, ids=['equal', 'unequal'])
def test_cross_attention_matches_equation_1_over_the_source(widths, form):
  layer = CrossAttention(HEADS, form=form, **widths)
  x, memory, valid = cross_attention_inputs()
  source_parameters = normal_parameters(layer.source_projection, memory)

  def project_source(memory):
    return layer.source_projection.apply(source_parameters, memory, valid)

  parameters = normal_parameters(layer, x, project_source(memory))

  @jax.jit
  def attend_to_source(x, memory):
    return layer.apply(parameters, x, project_source(memory))[0]

  weights, source_weights = (
    jax.tree.map(lambda p: np.asarray(p, np.float64), tree['params'])
    for tree in (parameters, source_parameters))
  query = project_to_heads(x, weights['query'])
  key, value = (project_to_heads(memory, source_weights[name]) for name in ('key', 'value'))
  expected = reference_attention(query, key, value, valid)
  assert_close(attend_to_source(x, memory), project_heads_to_output(expected, weights))
  poisoned = np.where(valid[..., None], memory, np.nan)
  np.testing.assert_array_equal(
    attend_to_source(x, poisoned), attend_to_source(x, memory))


def test_forms_with_unequal_key_and_value_widths_have_equal_gradients():
  _, memory, valid = cross_attention_inputs()
  layers = [Attention(HEADS, NONE, causal=False, form=form, key_width=2, value_width=6)
            for form in ('naive', 'blocked')]
  parameters = normal_parameters(layers[0], memory)

  def loss_gradient(layer):
    loss = lambda p, x: jnp.sum(jnp.sin(layer.apply(p, x, mask=valid)[0]))  # noqa: E731
    return jax.jit(jax.grad(loss, (0, 1)))(parameters, memory)

  naive, blocked = map(loss_gradient, layers)
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), naive, blocked)


def test_cross_attention_without_a_source_returns_zeros():
  x, _, _ = cross_attention_inputs()
  layer = CrossAttention(HEADS)
  parameters = normal_parameters(layer, x)
  np.testing.assert_array_equal(layer.apply(parameters, x)[0], np.zeros_like(x))
  empty = layer.initial_state(BATCH, SOURCE, WIDTH)
  np.testing.assert_array_equal(layer.apply(parameters, x, empty)[0], np.zeros_like(x))


def test_requested_attention_weights_reproduce_the_output():
  x, memory, valid = cross_attention_inputs()
  layer = CrossAttention(HEADS)
  source_parameters = normal_parameters(layer.source_projection, memory)
  state = layer.source_projection.apply(source_parameters, memory, valid)
  parameters = normal_parameters(layer, x, state)
  (y, _), collections = layer.apply(parameters, x, state, mutable='intermediates')
  (weights,) = collections['intermediates']['weights']
  assert weights.shape == (BATCH, HEADS, LENGTH, SOURCE)
  np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
  assert not np.asarray(weights)[~np.broadcast_to(valid[:, None, None], weights.shape)].any()
  heads = np.einsum('BHTS,BHKS->BTHK', weights, state.value)
  np.testing.assert_allclose(project_heads_to_output(heads, parameters['params']), y, atol=1e-5)
  assert 'intermediates' not in layer.init(jax.random.key(0), x, state)


@pytest.mark.parametrize(
  ('construct', 'message'),
  [
    (lambda: Attention(causal=False, window=3), 'supports no window'),
    (lambda: Attention(causal=False, positions=POSITIONS['alibi']()), 'supports no window'),
    (lambda: Attention(key_width=3), 'multiples of 2, not 3'),
    (lambda: Attention(key_width=-2), 'key_width >= 0, not -2'),
    (lambda: Attention(positions=POSITIONS['shaw'](), value_width=4), 'value_width equal to key'),
    (lambda: CrossAttention(0), 'num_heads >= 1, not 0'),
    (lambda: CrossAttention(form='slow'), 'naive'),
  ],
)
def test_invalid_attention_options_raise_errors(construct, message):
  with pytest.raises(ValueError, match=message):
    construct()
