"""Attention that looks both ways, or at a source, against the paper's equations in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.reference import close
from transformer.attention import Attention
from transformer.cross_attention import CrossAttention
from transformer.positions import POSITIONS

BATCH, LENGTH, SOURCE, WIDTH, HEADS = 2, 5, 7, 8, 2
WIDTHS = ({}, {'key_width': 6, 'value_width': 3, 'use_bias': True})
NONE = POSITIONS['none']()


def attended(query, key, value, valid):
  """Equation 1 for heads [B, T, H, K] over keys [B, S, H, K], one query at a time."""
  y = np.zeros((*query.shape[:3], value.shape[3]))
  for b, t, h in np.ndindex(*query.shape[:3]):
    seen = np.flatnonzero(valid[b])
    score = key[b, seen, h] @ query[b, t, h] / np.sqrt(query.shape[3])
    weight = np.exp(score - score.max(initial=-np.inf))
    y[b, t, h] = weight @ value[b, seen, h] / weight.sum() if len(seen) else 0
  return y


def projected(x, parameters):
  """Rows times W, plus b, in heads [B, T, H, K]."""
  y = np.einsum('BTD,DHK->BTHK', x, parameters['kernel'])
  return y + parameters['bias'] if 'bias' in parameters else y


def joined(y, parameters):
  """The heads' outputs, projected back."""
  y = np.einsum('BTHK,HKD->BTD', y, parameters['output']['kernel'])
  return y + parameters['output']['bias'] if 'bias' in parameters['output'] else y


@functools.cache
def inputs():
  """What is read, the source, and which of its tokens there are; one row has none."""
  generator = np.random.default_rng(0)
  x, memory = (generator.normal(size=(BATCH, n, WIDTH)).astype(np.float32)
               for n in (LENGTH, SOURCE))
  valid = np.array([[1, 1, 0, 1, 1, 1, 0], [1, 0, 1, 0, 0, 0, 0]], bool)
  return x, memory, valid


def parameters_of(module, *arguments, **named):
  """Drawn from a normal distribution, biases too."""
  generator = np.random.default_rng(1)
  shapes = jax.eval_shape(functools.partial(module.init, **named), jax.random.key(0), *arguments)
  return jax.tree.map(lambda s: jnp.array(generator.normal(0, 0.5, s.shape), jnp.float32), shapes)


@pytest.mark.parametrize('form', ['naive', 'blocked'])
@pytest.mark.parametrize('widths', WIDTHS, ids=['equal', 'unequal'])
def test_attention_that_looks_both_ways_is_equation_1_without_order(widths, form):
  layer = Attention(HEADS, NONE, causal=False, form=form, **widths)
  _, x, valid = inputs()
  parameters = parameters_of(layer, x)
  own = jax.tree.map(lambda p: np.asarray(p, np.float64), parameters['params'])
  heads = projected(x, own['projection'])
  if widths:
    query, key = np.split(heads, 2, 2)
    value = projected(x, own['value_projection'])
  else:
    query, key, value = np.split(heads, 3, 2)
  expected = joined(attended(query, key, value, valid), own)
  y = jax.jit(layer.apply)(parameters, x, mask=valid)[0]
  close(np.asarray(y)[valid], expected[valid])


@pytest.mark.parametrize('form', ['naive', 'blocked'])
@pytest.mark.parametrize('widths', WIDTHS, ids=['equal', 'unequal'])
def test_cross_attention_is_equation_1_over_the_source(widths, form):
  layer = CrossAttention(HEADS, form=form, **widths)
  x, memory, valid = inputs()
  below = parameters_of(layer.source_projection, memory)
  parameters = parameters_of(layer, x, layer.source_projection.apply(below, memory, valid))

  @jax.jit
  def read(x, memory):
    return layer.apply(parameters, x, layer.source_projection.apply(below, memory, valid))[0]

  own, there = (jax.tree.map(lambda p: np.asarray(p, np.float64), tree['params'])
                for tree in (parameters, below))
  query = projected(x, own['query'])
  key, value = (projected(memory, there[name]) for name in ('key', 'value'))
  expected = attended(query, key, value, valid)
  close(read(x, memory), joined(expected, own))
  poisoned = np.where(valid[..., None], memory, np.nan)
  np.testing.assert_array_equal(read(x, poisoned), read(x, memory))


def test_forms_of_unequal_widths_have_equal_gradients():
  _, memory, valid = inputs()
  layers = [Attention(HEADS, NONE, causal=False, form=form, key_width=2, value_width=6)
            for form in ('naive', 'blocked')]
  parameters = parameters_of(layers[0], memory)

  def gradient(layer):
    loss = lambda p, x: jnp.sum(jnp.sin(layer.apply(p, x, mask=valid)[0]))  # noqa: E731
    return jax.jit(jax.grad(loss, (0, 1)))(parameters, memory)

  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), *map(gradient, layers))


def test_without_a_source_there_is_nothing_to_look_at():
  x, _, _ = inputs()
  layer = CrossAttention(HEADS)
  parameters = parameters_of(layer, x)
  np.testing.assert_array_equal(layer.apply(parameters, x)[0], np.zeros_like(x))
  empty = layer.initial_state(BATCH, SOURCE, WIDTH)
  np.testing.assert_array_equal(layer.apply(parameters, x, empty)[0], np.zeros_like(x))


def test_weights_are_left_where_they_are_asked_for_and_give_the_output():
  x, memory, valid = inputs()
  layer = CrossAttention(HEADS)
  below = parameters_of(layer.source_projection, memory)
  state = layer.source_projection.apply(below, memory, valid)
  parameters = parameters_of(layer, x, state)
  (y, _), left = layer.apply(parameters, x, state, mutable='intermediates')
  (weights,) = left['intermediates']['weights']
  assert weights.shape == (BATCH, HEADS, LENGTH, SOURCE)
  np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
  assert not np.asarray(weights)[~np.broadcast_to(valid[:, None, None], weights.shape)].any()
  by_hand = np.einsum('BHTS,BHKS->BTHK', weights, state.value)
  np.testing.assert_allclose(joined(by_hand, parameters['params']), y, atol=1e-5)
  assert 'intermediates' not in layer.init(jax.random.key(0), x, state)


@pytest.mark.parametrize(
  ('make', 'named'),
  [
    (lambda: Attention(causal=False, window=3), 'both ways'),
    (lambda: Attention(causal=False, positions=POSITIONS['alibi']()), 'both ways'),
    (lambda: Attention(key_width=3), 'multiples of 2, not 3'),
    (lambda: Attention(key_width=-2), 'key_width >= 0, not -2'),
    (lambda: Attention(positions=POSITIONS['shaw'](), value_width=4), 'as wide as keys'),
    (lambda: CrossAttention(0), 'num_heads >= 1, not 0'),
    (lambda: CrossAttention(form='slow'), 'naive'),
  ],
)
def test_what_attention_cannot_be_is_refused_in_one_line(make, named):
  with pytest.raises(ValueError, match=named):
    make()
