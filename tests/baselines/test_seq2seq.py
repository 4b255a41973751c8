"""Tests of encoder-decoders against their papers' equations, in chunks, and with any layer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from baselines import LAYERS, TRANSLATORS
from baselines.additive_attention import AdditiveAttention
from baselines.deep_convolution import ByteNet
from baselines.global_attention import SCORES, AttentiveConvS2S, GlobalAttention
from baselines.recurrent import GRU, LSTM, Elman
from baselines.seq2seq import UNBOUNDED_CAPACITY, AddAlignedSource, state_shapes
from tests.support.reference import assert_close, draw_normal_inputs, logistic, to_float64
from transformer.attention import Attention
from transformer.block import Block
from transformer.laws import expect_close
from transformer.layer_laws import scalar_loss
from transformer.model import EncoderDecoder
from transformer.stack import Stack

VOCABULARY, WIDTH, SOURCE, TARGET = 7, 8, 6, 5
CATALOGUE = {name: construct() for name, construct in LAYERS.items()}
LAYERS_WITH_FIXED_STATE = [
  name for name, layer in CATALOGUE.items()
  if state_shapes(layer, 0) == state_shapes(layer, UNBOUNDED_CAPACITY)
]


def draw_layer_and_source(layer, size=4, width=3):
  """Random parameters of a layer and its source projection, inputs, and a source with padding."""
  generator = np.random.default_rng(1)
  memory = jnp.array(generator.normal(size=(2, size, width)), jnp.float32)
  mask = np.array([[1] * size, [1] * (size - 1) + [0]], bool)
  source_projection = layer.source_projection
  parameters, x, _ = draw_normal_inputs(layer, width=width)
  projection_parameters = jax.tree.map(
    lambda p: jnp.array(generator.normal(0, 0.7, p.shape), jnp.float32),
    source_projection.init(jax.random.key(0), memory, mask),
  )
  state = source_projection.apply(projection_parameters, memory, mask)
  return parameters, x, memory, mask, projection_parameters.get('params', {}), state


def softmax(score):
  weight = np.exp(score - score.max())
  return weight / weight.sum()


def elman_step(z, product, h):
  return (np.tanh(z + product),)


def gru_step(z, product, h):
  (r, u), (z, product) = (
    [logistic(z[i] + product[i]) for i in range(2)], (z[2], product[2]))
  return ((1 - u) * np.tanh(z + r * product) + u * h[0],)


def lstm_step(z, product, h):
  i, f, g, o = z + product
  c = logistic(f) * h[1] + logistic(i) * np.tanh(g)
  return logistic(o) * np.tanh(c), c


@pytest.mark.parametrize(('cell', 'step'), [
  (Elman(), elman_step), (GRU(), gru_step), (LSTM(), lstm_step)], ids=['elman', 'gru', 'lstm'])
def test_additive_attention_equals_the_equations_of_bahdanau(cell, step):
  layer = AdditiveAttention(cell)
  parameters, x, memory, mask, projection, state = draw_layer_and_source(layer)
  y, observed = layer.apply(parameters, x, state, mutable='intermediates')
  p, x, memory, projection = to_float64(parameters['params'], x, memory, projection)
  gates, width = cell.gates, x.shape[2]
  for row in range(len(x)):
    source = memory[row][mask[row]]
    keys = source @ projection['key']['kernel']
    h = np.split(np.tanh(source[0] @ projection['start']['kernel']), cell.num_states)
    for t in range(x.shape[1]):
      energy = [p['score_kernel'] @ np.tanh(h[0] @ p['query_kernel'] + key) for key in keys]
      weight = softmax(np.array(energy))
      input_projection = x[row, t] @ p['input']['kernel'] + p['input']['bias']
      input_projection = input_projection + weight @ source @ p['context_kernel']
      h = step(
        *(a.reshape(gates, width).squeeze(0) if gates == 1 else a.reshape(gates, width)
          for a in (input_projection, h[0] @ p['recurrent_kernel'])), h)
      assert_close(y[0][row, t], h[0])
      sown = observed['intermediates']['weights'][0][row, 0, t]
      assert_close(sown[mask[row]], weight)
      assert not sown[~mask[row]].any()


@pytest.mark.parametrize('recurrent_bias', [False, True])
def test_additive_attention_without_a_source_equals_its_recurrent_layer(recurrent_bias):
  cell = GRU(recurrent_bias=recurrent_bias)
  layer = AdditiveAttention(cell)
  parameters, x, _ = draw_normal_inputs(layer)
  names = jax.eval_shape(cell.init, jax.random.key(0), x)['params']
  shared = {name: parameters['params'][name] for name in names}
  assert recurrent_bias == ('recurrent_bias' in names)
  assert_close(layer.apply(parameters, x)[0], cell.apply({'params': shared}, x)[0])


@pytest.mark.parametrize('score', SCORES)
def test_global_attention_equals_the_equations_of_luong(score):
  layer = GlobalAttention(score)
  parameters, x, memory, mask, projection, state = draw_layer_and_source(layer)
  y, observed = layer.apply(parameters, x, state, mutable='intermediates')
  p, x, memory, projection = to_float64(parameters['params'], x, memory, projection)
  for row in range(len(x)):
    source = memory[row][mask[row]]
    keys = source @ projection['key']['kernel'] if score == 'general' else source
    for t in range(x.shape[1]):
      weight = softmax(keys @ x[row, t])
      combined = np.concatenate([weight @ source, x[row, t]])
      assert_close(y[0][row, t], np.tanh(combined @ p['combine']['kernel']))
      assert_close(observed['intermediates']['weights'][0][row, 0, t][mask[row]], weight)


def test_a_convs2s_decoder_equals_the_equations_of_gehring():
  layer = AttentiveConvS2S(kernel_size=2, levels=2)
  parameters, x, memory, mask, _, state = draw_layer_and_source(layer)
  y, observed = layer.apply(parameters, x, state, mutable='intermediates')
  p, x, memory = to_float64(parameters['params'], x, memory)
  for level in range(2):
    convolution, query = (p[f'level_{level}_{part}'] for part in ('convolution', 'query'))
    norm = np.sqrt((convolution['kernel'] ** 2).sum((0, 1)))
    kernel, after = convolution['kernel'] / norm * convolution['scale'], np.zeros_like(x)
    for row in range(len(x)):
      source = memory[row][mask[row]]
      for t in range(x.shape[1]):
        past = x[row, t - 1] if t else np.zeros(x.shape[2])
        a, b = np.split(past @ kernel[0] + x[row, t] @ kernel[1] + convolution['bias'], 2)
        h = a * logistic(b)
        query_t = h @ query['kernel'] + query['bias'] + x[row, t]
        weight = softmax(source @ query_t / x.shape[2] ** 0.5)
        assert_close(observed['intermediates']['weights'][level][row, 0, t][mask[row]], weight)
        context = len(source) ** 0.5 * weight @ source
        after[row, t] = 0.5**0.5 * (x[row, t] + h + context)
    x = after
  assert_close(y[0], x)


def test_the_aligned_source_is_added_token_by_token_up_to_its_end():
  layer = AddAlignedSource()
  _, x, memory, mask, _, state = draw_layer_and_source(layer)
  y, after = layer.apply({}, x[:, :3], state)
  last, _ = layer.apply({}, x[:, 3:], after)
  aligned = np.zeros(x.shape)
  aligned[:, : memory.shape[1]] = np.where(mask[..., None], memory, 0)
  assert_close(np.concatenate([y, last], 1), x + aligned)


def build_model(translator, depth=1):
  def build_stack(blocks):
    return Stack(tuple(Block(layer, norm='none') for block in blocks for layer in block))

  encoder, decoder = build_stack(translator.encoder(depth)), build_stack(translator.decoder(depth))
  return EncoderDecoder(
    nn.Embed(VOCABULARY, max(decoder.required_width_divisor, WIDTH)), encoder, decoder,
    normalization=None, carry_state=translator.carry_state,
    reverse_source=translator.reverses_source,
  )


TESTED_TRANSLATORS = {
  **{name: construct() for name, construct in TRANSLATORS.items()},
  'convs2s': TRANSLATORS['convs2s'](levels=2),
  'bytenet': TRANSLATORS['bytenet'](ByteNet(2, levels=2)),
  'multiplicative, reversed': TRANSLATORS['multiplicative'](reverse=True),
}


@functools.cache
def model_and_data(name):
  """A model of two blocks with parameters, a source with padding and a target."""
  model, generator = build_model(TESTED_TRANSLATORS[name], 2), np.random.default_rng(2)
  source = generator.integers(0, VOCABULARY, (2, SOURCE)).astype(np.int32)
  target = generator.integers(0, VOCABULARY, (2, TARGET)).astype(np.int32)
  mask = np.array([[1] * SOURCE, [1] * (SOURCE - 2) + [0, 0]], bool)
  return model, jax.jit(model.init)(jax.random.key(0), source, target), source, target, mask


@functools.cache
def compiled_gradients(name):
  """A compiled function that returns gradients, outputs and sown intermediates for a source."""
  model, _, _, target, mask = model_and_data(name)

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def gradients_and_output(parameters, source):
    (y, _), observed = model.apply(parameters, source, target, mask=mask, mutable='intermediates')
    return scalar_loss(y, None), (y, observed)

  return gradients_and_output


@pytest.mark.parametrize('name', [
  name if name in ('transformer', 'fixed_vector')
  else pytest.param(name, marks=pytest.mark.slow)
  for name in TESTED_TRANSLATORS
])
def test_decoding_in_chunks_equals_decoding_at_once(name):
  """Padding has no effect, and every parameter receives a gradient."""
  model, parameters, source, target, mask = model_and_data(name)
  gradients, (y, _) = compiled_gradients(name)(parameters, source)
  for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.isfinite(gradient).all(), path
    assert np.abs(gradient).max() > 1e-9, path
  changed = np.where(mask, source, (source + 1) % VOCABULARY)
  jax.tree.map(
    np.testing.assert_array_equal, compiled_gradients(name)(parameters, changed)[0], gradients
  )

  encode, decode = (
    jax.jit(functools.partial(model.apply, **options))
    for options in ({'capacity': TARGET, 'method': 'encode'}, {'method': 'decode'})
  )
  state, outputs = encode(parameters, source[1:, : SOURCE - 2]), []
  for chunk in np.split(target[1:], (1, 2, 3), 1):
    y_chunk, state = decode(parameters, chunk, state)
    outputs.append(y_chunk)
  # The chunks have two lengths, and the shapes of the state do not change.
  assert decode._cache_size() == 2
  outputs = np.concatenate(outputs, 1)
  expect_close(outputs, y[1:], 'decoding in chunks without padding', tolerance=5e-5)


@pytest.mark.parametrize('name', ['transformer', 'additive', 'multiplicative', 'convs2s'])
def test_a_decoder_sows_its_attention_weights(name):
  _, parameters, source, *_ = model_and_data(name)
  _, (_, observed) = compiled_gradients(name)(parameters, source)
  weights = jax.tree.leaves(observed['intermediates']['decoder'])
  weights = [weight for weight in weights if weight.shape[3] == SOURCE]
  assert len(weights) == {'transformer': 2, 'convs2s': 4}.get(name, 1)
  for weight in weights:
    assert weight.shape[::2] == (2, TARGET)
    np.testing.assert_allclose(weight.sum(-1), 1, atol=1e-5)
    assert not weight[1, :, :, SOURCE - 2 :].any()


def test_a_fixed_vector_does_not_grow_with_the_source():
  """Its state is h and c of each block, whereas the state of attention grows."""
  def state_shapes_for(name, times):
    model, parameters, source, *_ = model_and_data(name)
    encode = functools.partial(model.apply, capacity=TARGET, method='encode')
    state = jax.eval_shape(encode, parameters, np.tile(source, (1, times)))
    return jax.tree.map(jnp.shape, state)

  expected = (None, (((2, WIDTH),) * 2,) * 2)
  assert state_shapes_for('fixed_vector', 1) == state_shapes_for('fixed_vector', 3) == expected
  assert state_shapes_for('multiplicative', 1) != state_shapes_for('multiplicative', 3)


def test_the_decoder_starts_from_the_last_state_of_the_encoder():
  model, parameters, source, target, _ = model_and_data('fixed_vector')
  states = model.apply(parameters, source, method='encode')
  x = WIDTH**0.5 * parameters['params']['embedding']['embedding'][source]
  _, after = model.encoder.apply({'params': parameters['params']['encoder']}, x)
  expect_close(states, (None, after), 'the state')
  y, y_without_state = (
    model.apply(parameters, target, state, method='decode')[0]
    for state in (states, jax.tree.map(jnp.zeros_like, states))
  )
  assert np.abs(y - y_without_state).max() > 1e-3


def test_reverse_encodes_the_last_token_first():
  """A model that reverses a reversed source equals a model that does not reverse the source."""
  model, parameters, source, _, mask = model_and_data('fixed_vector')
  reversing_model = build_model(TRANSLATORS['fixed_vector'](reverse=True), 2)
  encode, encode_reversed = (
    jax.jit(functools.partial(encoder.apply, parameters, method='encode'))
    for encoder in (model, reversing_model)
  )
  state = encode(source, mask=mask)
  expect_close(encode_reversed(source[:, ::-1], mask=mask[:, ::-1]), state, 'the state')
  difference = jax.tree.map(
    lambda a, b: np.abs(a - b).max(), encode_reversed(source, mask=mask), state
  )
  assert min(jax.tree.leaves(difference)) > 1e-3


def test_bytenet_depends_on_the_source_within_its_receptive_field():
  """The sum of target and source tokens is the only connection to the source."""
  ((add_source, layer),) = TESTED_TRANSLATORS['bytenet'].decoder(1)
  stack = Stack((add_source, layer))
  x = jax.random.normal(jax.random.key(0), (1, 8, 8))
  parameters = stack.init(jax.random.key(1), x)

  @jax.jit
  @jax.jacrev
  def output_jacobian(memory):
    state = (add_source.source_projection.apply({}, memory), layer.initial_state(1, 8, 8))
    return jnp.sin(stack.apply(parameters, x, state)[0]).sum((0, 2))

  t, s = np.arange(8)[:, None], np.arange(6)
  in_field = (t - layer.receptive_field < s) & (s <= t)
  np.testing.assert_array_equal(np.abs(output_jacobian(x[:, :6])).sum((1, 3)) > 0, in_field)


@pytest.mark.parametrize(('construct', 'message'), [
  (lambda: TRANSLATORS['fixed_vector'](Attention()), 'state of Attention grows'),
  (lambda: TRANSLATORS['multiplicative'](CATALOGUE['interleave']), 'state of Interleave grows'),
  (lambda: TRANSLATORS['fixed_vector'](CATALOGUE['sliding_window']), 'SlidingWindow grows'),
  (lambda: TRANSLATORS['additive'](Attention()), 'such as GRU or LSTM, not Attention'),
  (lambda: TRANSLATORS['multiplicative'](score='concat'), "no score 'concat'.*general, dot"),
  (lambda: TRANSLATORS['transformer'](num_heads=-1), 'num_heads >= 0, not -1'),
  (lambda: TRANSLATORS['transformer'](Attention(causal=False)), 'translators need causal layers'),
  (lambda: TRANSLATORS['bytenet'](ByteNet(causal=False)), 'translators need causal layers'),
  (lambda: TRANSLATORS['convs2s'](levels=0), 'levels >= 1, not 0'),
])
def test_invalid_translator_options_raise_an_error(construct, message):
  with pytest.raises(ValueError, match=message):
    construct()


CASES = [
  *(('transformer', name) for name in LAYERS),
  *(('fixed_vector', name) for name in LAYERS_WITH_FIXED_STATE),
]


def model_and_training_step(translator, name):
  """A model with a block for each part of a layer, and a function of its gradients and outputs."""
  layer = CATALOGUE[name]
  model = build_model(TRANSLATORS[translator](layer), len(layer.layer_pattern))
  _, _, source, target, mask = model_and_data('fixed_vector')

  def initialize_and_differentiate():
    parameters = model.init(jax.random.key(0), source, target)

    def loss(parameters):
      y, _ = model.apply(parameters, source, target, mask=mask)
      return scalar_loss(y, None), y

    return parameters, *jax.grad(loss, has_aux=True)(parameters)

  return model, initialize_and_differentiate


@pytest.mark.parametrize(('translator', 'name'), [('transformer', 'gru'), ('fixed_vector', 's5')])
def test_a_model_of_any_layer_has_gradients_and_logits(translator, name):
  _, training_step = model_and_training_step(translator, name)
  parameters, gradients, y = jax.eval_shape(training_step)
  assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, parameters)
  assert y.shape == (2, TARGET, VOCABULARY)


@pytest.mark.slow
@pytest.mark.parametrize(('translator', 'name'), CASES)
def test_a_model_of_any_layer_ignores_source_padding(translator, name):
  model, training_step = model_and_training_step(translator, name)
  parameters, gradients, y = jax.jit(training_step)()
  for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.isfinite(gradient).all(), path
  _, _, source, target, _ = model_and_data('fixed_vector')
  unpadded = model.apply(parameters, source[1:, : SOURCE - 2], target[1:])[0]
  expect_close(unpadded, y[1:], 'a padded source against the source alone', tolerance=1e-4)
