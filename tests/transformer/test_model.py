"""Decoder-only models satisfy the laws of a layer, and stacks and blocks match their equations."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import example, given, settings
from hypothesis import strategies as st

from baselines.convolution import Convolution
from baselines.recurrent import LSTM
from transformer.attention import Attention
from transformer.block import Block
from transformer.feedforward import FeedForward
from transformer.model import DecoderOnly
from transformer.positions import POSITIONS
from transformer.stack import Stack

BATCH, LENGTH, WIDTH, VOCABULARY, CHANNELS = 2, 6, 8, 5, 3
LAYERS = {
  'sinusoidal': lambda: Attention(2, POSITIONS['sinusoidal']()),
  'rotary': lambda: Attention(2),
  'lstm': LSTM,
}


def two_block_model(name, reals=False, **settings):
  """A model of two blocks over tokens, or over real channels."""
  embedding = nn.Dense(WIDTH) if reals else nn.Embed(VOCABULARY, WIDTH)
  stack = Stack((Block(LAYERS[name]()),), depth=2)
  return DecoderOnly(embedding, stack, nn.Dense(VOCABULARY), **settings)


@functools.cache
def initialized_model(name, reals=False):
  """Returns a model, its parameters, a source and the compiled model."""
  model, generator = two_block_model(name, reals), np.random.default_rng(0)
  source = generator.integers(0, VOCABULARY, (BATCH, LENGTH)).astype(np.int32)
  if reals:
    source = generator.normal(size=(BATCH, LENGTH, CHANNELS)).astype(np.float32)
  parameters = jax.jit(model.init)(jax.random.key(0), source)
  return model, parameters, source, jax.jit(functools.partial(model.apply, parameters))


@functools.cache
def full_sequence_outputs(name):
  _, _, source, apply = initialized_model(name)
  return np.asarray(apply(source)[0])


@pytest.mark.parametrize('name', LAYERS)
@settings(deadline=None, max_examples=4)
@given(cuts=st.sets(st.integers(1, LENGTH - 1)))
@example(cuts=set())
@example(cuts=set(range(1, LENGTH)))
def test_a_sequence_in_chunks_has_the_outputs_of_one_call(name, cuts):
  model, _, source, apply = initialized_model(name)
  state, outputs = model.initial_state(BATCH, LENGTH, WIDTH), []
  for chunk in np.split(source, sorted(cuts), 1):
    y, state = apply(chunk, state)
    outputs.append(y)
  np.testing.assert_allclose(np.concatenate(outputs, 1), full_sequence_outputs(name), atol=2e-5)


@pytest.mark.parametrize('name', LAYERS)
def test_a_token_changes_its_output_and_no_earlier_output(name):
  _, _, source, apply = initialized_model(name)
  for t in range(LENGTH):
    changed = source.copy()
    changed[:, t] = (changed[:, t] + 1) % VOCABULARY
    y = np.asarray(apply(changed)[0])
    np.testing.assert_array_equal(y[:, :t], full_sequence_outputs(name)[:, :t])
    assert (y[:, t] != full_sequence_outputs(name)[:, t]).any()


@pytest.mark.parametrize('name', LAYERS)
def test_masked_tokens_change_no_valid_output_and_no_gradient(name):
  model, parameters, source, _ = initialized_model(name, reals=True)
  mask = np.array([[1, 1, 0, 1, 1, 0], [0, 1, 1, 1, 0, 0]], bool)

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def gradient_and_outputs(parameters, source, mask):
    y = model.apply(parameters, source, mask=mask)[0]
    y = jnp.where(mask[..., None], y, 0)
    return jnp.sum(jnp.sin(y)), y

  plain, poisoned = (
    gradient_and_outputs(parameters, np.where(mask[..., None], source, padding), mask)
    for padding in (7, np.nan)
  )
  jax.tree.map(np.testing.assert_array_equal, plain, poisoned)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(plain))
  unmasked = gradient_and_outputs(parameters, source, np.ones_like(mask))[1]
  assert np.abs(np.where(mask[..., None], unmasked - plain[1], 0)).max() > 1e-3


@pytest.mark.parametrize('name', ['rotary', 'lstm'])
def test_left_padding_does_not_change_outputs(name):
  """Layers without absolute positions ignore the padding, although its tokens are embedded."""
  _, _, source, apply = initialized_model(name)
  mask = np.broadcast_to(np.arange(LENGTH) >= 2, source.shape)
  padded, unpadded = apply(source, mask=mask)[0], apply(source[:, 2:])[0]
  np.testing.assert_allclose(padded[:, 2:], unpadded, atol=2e-5)


def test_a_model_is_the_composition_of_its_parts():
  """The parts are the embedding, positions, all levels, a norm and the head."""
  model, parameters, source, _ = initialized_model('sinusoidal')
  input_layer, (block,) = model.stack.input_layer, model.stack.layers

  @jax.jit
  def apply_parts(parts):
    x, _ = input_layer.apply({}, parts['embedding']['embedding'][source])
    for level in range(2):
      x, _ = block.apply({'params': parts['stack'][f'level_{level}']}, x)
    x = nn.LayerNorm().apply({'params': parts['last_norm']}, x)
    return x @ parts['head']['kernel'] + parts['head']['bias'][None, None]

  y = apply_parts(parameters['params'])
  np.testing.assert_allclose(y, full_sequence_outputs('sinusoidal'), atol=1e-5)
  assert set(parameters['params']) == {'embedding', 'stack', 'last_norm', 'head'}


def test_each_level_of_a_stack_has_separate_parameters():
  _, parameters, _, _ = initialized_model('rotary')
  levels = parameters['params']['stack']
  assert sorted(levels) == ['level_0', 'level_1']
  low, high = (level['layer']['projection']['kernel'] for level in levels.values())
  assert np.abs(low - high).min() > 0


def test_the_receptive_field_of_a_stack_matches_its_jacobian():
  stack = Stack((Block(Convolution(3, dilation=2)), FeedForward(), Convolution(2)), depth=2)
  model = DecoderOnly(nn.Dense(WIDTH), stack, nn.Dense(1))
  assert model.receptive_field == stack.receptive_field == 1 + 2 * (4 + 0 + 1)
  assert Stack((Convolution(2), LSTM())).receptive_field is None
  source = np.random.default_rng(0).normal(size=(1, 14, CHANNELS)).astype(np.float32)

  @jax.jit
  def input_gradient(source):
    parameters = model.init(jax.random.key(0), source)
    return jax.grad(lambda source: model.apply(parameters, source)[0][0, -1, 0])(source)

  nonzero = np.asarray(input_gradient(source))[0].any(-1)
  np.testing.assert_array_equal(np.flatnonzero(nonzero), np.arange(14 - 11, 14))


def test_equal_models_share_one_trace():
  traces = []

  @functools.partial(jax.jit, static_argnums=0)
  def apply_model(model, parameters, source):
    traces.append(model)
    return model.apply(parameters, source)[0]

  _, parameters, source, _ = initialized_model('rotary')
  for _ in range(2):
    apply_model(two_block_model('rotary'), parameters, source)
  assert len(traces) == 1
  apply_model(two_block_model('rotary', normalization=None), parameters, source)
  assert len(traces) == 2


def test_the_repr_of_a_model_lists_parts_and_settings():
  printed = repr(two_block_model('sinusoidal'))
  parts = ('DecoderOnly(', 'Embed(', 'Stack(', 'Block(', 'Attention(', 'Sinusoidal(', 'Dense(')
  fields = (f'features = {WIDTH}', 'depth = 2', "norm = 'pre'", 'num_heads = 2', 'base = 10000')
  for part in (*parts, *fields):
    assert part in printed


def test_a_model_computes_in_its_dtype_and_returns_float32():
  head = nn.Dense(VOCABULARY, dtype=jnp.bfloat16)
  model = two_block_model('rotary', dtype=jnp.bfloat16).copy(head=head)
  _, parameters, source, _ = initialized_model('rotary')
  y, (_, states) = jax.jit(model.apply)(parameters, source)
  assert y.dtype == jnp.float32
  assert states[0].key.dtype == jnp.bfloat16
  assert 0 < np.abs(y - full_sequence_outputs('rotary')).max() < 0.05


@functools.cache
def initialized_convolution():
  """Returns a convolution, its parameters, an input and the output function."""
  layer = Convolution(2)
  x = np.random.default_rng(1).normal(3, 2, (BATCH, LENGTH, WIDTH)).astype(np.float32)
  parameters = layer.init(jax.random.key(1), x)['params']
  return layer, parameters, x, lambda x: np.asarray(layer.apply({'params': parameters}, x)[0])


def standardize(x):
  return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize(
  ('norm', 'residual', 'expected'),
  [
    ('pre', True, lambda x, layer: x + layer(standardize(x))),
    ('post', True, lambda x, layer: standardize(x + layer(x))),
    ('none', True, lambda x, layer: x + layer(x)),
    ('none', False, lambda x, layer: layer(x)),
    ('pre', False, lambda x, layer: layer(standardize(x))),
    ('post', False, lambda x, layer: standardize(layer(x))),
  ],
)
def test_a_block_matches_its_equation(norm, residual, expected):
  layer, inner, x, apply = initialized_convolution()
  block = Block(layer, norm=norm, residual=residual)
  parameters = jax.jit(block.init)(jax.random.key(0), x)['params']
  y, _ = jax.jit(block.apply)({'params': {**parameters, 'layer': inner}}, x)
  np.testing.assert_allclose(y, expected(x, apply), atol=2e-5)
  assert ('norm' in parameters) == (norm != 'none')


def test_post_norm_outputs_have_mean_0_and_variance_1_at_initialization():
  layer, _, x, _ = initialized_convolution()
  y, _ = jax.jit(lambda x: Block(layer, norm='post').init_with_output(jax.random.key(2), x)[0])(x)
  np.testing.assert_allclose(y.mean(-1), 0, atol=1e-5)
  np.testing.assert_allclose(y.var(-1), 1, atol=1e-4)


def test_dropout_keeps_or_drops_each_channel_and_is_unbiased():
  layer, inner, x, apply = initialized_convolution()
  rate, count = 0.25, 400
  block = Block(layer, norm='none', dropout=rate)
  parameters, branch = {'params': {'layer': inner}}, apply(x)

  @jax.jit
  @jax.vmap
  def apply_with_dropout(key):
    return block.apply(parameters, x, train=True, rngs={'dropout': key})[0]

  dropped = apply_with_dropout(jax.random.split(jax.random.key(0), count)) - x[None]
  kept = np.abs(dropped) > 1e-5
  expected = np.broadcast_to(branch / (1 - rate), dropped.shape)
  np.testing.assert_allclose(dropped[kept], expected[kept], atol=1e-5)  # without the residual x
  error = np.abs(np.mean(dropped, 0) - branch)
  assert np.mean(error) < 1.5 * np.mean(np.abs(branch)) * np.sqrt(rate / (1 - rate) / count)
  assert abs(np.mean(kept) - (1 - rate)) < 0.01


def test_dropout_requires_a_random_stream_only_in_training():
  layer, inner, x, apply = initialized_convolution()
  block, parameters = Block(layer, norm='none', dropout=0.5), {'params': {'layer': inner}}
  np.testing.assert_allclose(block.apply(parameters, x)[0], x + apply(x), atol=1e-6)
  with pytest.raises(flax.errors.InvalidRngError, match='dropout'):
    block.apply(parameters, x, train=True)


@pytest.mark.parametrize(
  ('construct', 'message'),
  [
    (lambda: Block(LSTM(), norm='batch'), 'batch.*pre, post, none'),
    (lambda: Block(LSTM(), dropout=1.0), 'below 1, not 1.0'),
    (lambda: Block(LSTM(), dropout=-0.1), 'at least 0.*-0.1'),
    (lambda: Stack(()), '0 layers'),
    (lambda: Stack((LSTM(),), depth=0), 'a depth of 0'),
  ],
)
def test_invalid_blocks_and_stacks_raise_errors(construct, message):
  with pytest.raises(ValueError, match=message):
    construct()
