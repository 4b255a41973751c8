"""Encoder-decoders: steps against the papers' equations; in pieces as at once; any layer."""

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
from baselines.seq2seq import ENDLESS, Unfold, state_shapes
from tests.support.reference import close, drawn, in_float64, logistic
from tests.transformer.layer_laws import close as all_close
from tests.transformer.layer_laws import judged
from transformer.attention import Attention
from transformer.block import Block
from transformer.model import EncoderDecoder
from transformer.stack import Stack

VOCABULARY, WIDTH, SOURCE, TARGET = 7, 8, 6, 5
CATALOGUE = {name: made() for name, made in LAYERS.items()}
FIXED = [name for name, layer in CATALOGUE.items()
         if state_shapes(layer, 0) == state_shapes(layer, ENDLESS)]


def encoded(layer, size=4, width=3):
  """Parameters drawn at random of a layer and its bridge; what an encoder read, with padding."""
  generator = np.random.default_rng(1)
  memory = jnp.array(generator.normal(size=(2, size, width)), jnp.float32)
  mask = np.array([[1] * size, [1] * (size - 1) + [0]], bool)
  source_projection, (parameters, x, _) = layer.source_projection, drawn(layer, width=width)
  made = jax.tree.map(
    lambda p: jnp.array(generator.normal(0, 0.7, p.shape), jnp.float32),
    source_projection.init(jax.random.key(0), memory, mask),
  )
  state = source_projection.apply(made, memory, mask)
  return parameters, x, memory, mask, made.get('params', {}), state


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
def test_additive_attention_is_that_of_bahdanau(cell, step):
  layer = AdditiveAttention(cell)
  parameters, x, memory, mask, source_projection, state = encoded(layer)
  y, observed = layer.apply(parameters, x, state, mutable='intermediates')
  p, x, memory, source_projection = in_float64(parameters['params'], x, memory, source_projection)
  gates, width = cell.gates, x.shape[2]
  for row in range(len(x)):
    read = memory[row][mask[row]]
    keys = read @ source_projection['key']['kernel']
    h = np.split(np.tanh(read[0] @ source_projection['start']['kernel']), cell.num_states)
    for t in range(x.shape[1]):
      energy = [p['score_kernel'] @ np.tanh(h[0] @ p['query_kernel'] + key) for key in keys]
      weight = softmax(np.array(energy))
      input_projection = x[row, t] @ p['input']['kernel'] + p['input']['bias']
      input_projection = input_projection + weight @ read @ p['context_kernel']
      h = step(
        *(a.reshape(gates, width).squeeze(0) if gates == 1 else a.reshape(gates, width)
          for a in (input_projection, h[0] @ p['recurrent_kernel'])), h)
      close(y[0][row, t], h[0])
      seen = observed['intermediates']['weights'][0][row, 0, t]
      close(seen[mask[row]], weight)
      assert not seen[~mask[row]].any()


@pytest.mark.parametrize('recurrent_bias', [False, True])
def test_additive_attention_without_a_source_is_its_layer(recurrent_bias):
  cell = GRU(recurrent_bias=recurrent_bias)
  layer = AdditiveAttention(cell)
  parameters, x, _ = drawn(layer)
  names = jax.eval_shape(cell.init, jax.random.key(0), x)['params']
  shared = {name: parameters['params'][name] for name in names}
  assert recurrent_bias == ('recurrent_bias' in names)
  close(layer.apply(parameters, x)[0], cell.apply({'params': shared}, x)[0])


@pytest.mark.parametrize('score', SCORES)
def test_global_attention_is_that_of_luong(score):
  layer = GlobalAttention(score)
  parameters, x, memory, mask, source_projection, state = encoded(layer)
  y, observed = layer.apply(parameters, x, state, mutable='intermediates')
  p, x, memory, source_projection = in_float64(parameters['params'], x, memory, source_projection)
  for row in range(len(x)):
    read = memory[row][mask[row]]
    keys = read @ source_projection['key']['kernel'] if score == 'general' else read
    for t in range(x.shape[1]):
      weight = softmax(keys @ x[row, t])
      completed = np.concatenate([weight @ read, x[row, t]])
      close(y[0][row, t], np.tanh(completed @ p['combine']['kernel']))
      close(observed['intermediates']['weights'][0][row, 0, t][mask[row]], weight)


def test_a_convolutional_decoder_attends_at_every_level_as_gehring_writes():
  layer = AttentiveConvS2S(kernel_size=2, levels=2)
  parameters, x, memory, mask, _, state = encoded(layer)
  y, observed = layer.apply(parameters, x, state, mutable='intermediates')
  p, x, memory = in_float64(parameters['params'], x, memory)
  for level in range(2):
    convolution, query = (p[f'level_{level}_{part}'] for part in ('convolution', 'query'))
    norm = np.sqrt((convolution['kernel'] ** 2).sum((0, 1)))
    kernel, after = convolution['kernel'] / norm * convolution['scale'], np.zeros_like(x)
    for row in range(len(x)):
      read = memory[row][mask[row]]
      for t in range(x.shape[1]):
        past = x[row, t - 1] if t else np.zeros(x.shape[2])
        a, b = np.split(past @ kernel[0] + x[row, t] @ kernel[1] + convolution['bias'], 2)
        h = a * logistic(b)
        query_t = h @ query['kernel'] + query['bias'] + x[row, t]
        weight = softmax(read @ query_t / x.shape[2] ** 0.5)
        close(observed['intermediates']['weights'][level][row, 0, t][mask[row]], weight)
        context = len(read) ** 0.5 * weight @ read
        after[row, t] = 0.5**0.5 * (x[row, t] + h + context)
    x = after
  close(y[0], x)


def test_unfolding_adds_place_by_place_and_ends_with_the_source():
  layer = Unfold()
  _, x, memory, mask, _, state = encoded(layer)
  y, after = layer.apply({}, x[:, :3], state)
  last, _ = layer.apply({}, x[:, 3:], after)
  beside = np.zeros(x.shape)
  beside[:, : memory.shape[1]] = np.where(mask[..., None], memory, 0)
  close(np.concatenate([y, last], 1), x + beside)


def model_of(translator, depth=1):
  def stack(blocks):
    return Stack(tuple(Block(layer, norm='none') for block in blocks for layer in block))

  encoder, decoder = stack(translator.encoder(depth)), stack(translator.decoder(depth))
  return EncoderDecoder(
    nn.Embed(VOCABULARY, max(decoder.width_multiple, WIDTH)), encoder, decoder, normalization=None,
    carry_state=translator.carry_state, reverse_source=translator.reverse_source,
  )


TRANSLATORS_HERE = {
  **{name: made() for name, made in TRANSLATORS.items()},
  'convs2s': TRANSLATORS['convs2s'](levels=2),
  'bytenet': TRANSLATORS['bytenet'](ByteNet(2, levels=2)),
  'multiplicative, reversed': TRANSLATORS['multiplicative'](reverse=True),
}


@functools.cache
def subject(name):
  """A model of two blocks with parameters, a source with padding and a target."""
  model, generator = model_of(TRANSLATORS_HERE[name], 2), np.random.default_rng(2)
  source = generator.integers(0, VOCABULARY, (2, SOURCE)).astype(np.int32)
  target = generator.integers(0, VOCABULARY, (2, TARGET)).astype(np.int32)
  mask = np.array([[1] * SOURCE, [1] * (SOURCE - 2) + [0, 0]], bool)
  return model, jax.jit(model.init)(jax.random.key(0), source, target), source, target, mask


@functools.cache
def reading(name):
  """The compiled reading of a source [2, SOURCE]: gradients; outputs, what can be observed."""
  model, _, _, target, mask = subject(name)

  @jax.jit
  @functools.partial(jax.grad, has_aux=True)
  def read(parameters, source):
    (y, _), observed = model.apply(parameters, source, target, mask=mask, mutable='intermediates')
    return judged(y, None), (y, observed)

  return read


@pytest.mark.parametrize('name', [
  name if name in ('transformer', 'fixed_vector')
  else pytest.param(name, marks=pytest.mark.slow)
  for name in TRANSLATORS_HERE
])
def test_a_translation_in_pieces_is_the_translation_at_once(name):
  """In a padded batch as alone; with a gradient for every parameter."""
  model, parameters, source, target, mask = subject(name)
  gradients, (y, _) = reading(name)(parameters, source)
  for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.isfinite(gradient).all(), path
    assert np.abs(gradient).max() > 1e-9, path
  other = np.where(mask, source, (source + 1) % VOCABULARY)
  jax.tree.map(
    np.testing.assert_array_equal, reading(name)(parameters, other)[0], gradients
  )

  encode, decode = (
    jax.jit(functools.partial(model.apply, **how))
    for how in ({'capacity': TARGET, 'method': 'encode'}, {'method': 'decode'})
  )
  state, outputs = encode(parameters, source[1:, : SOURCE - 2]), []
  for piece in np.split(target[1:], (1, 2, 3), 1):  # compiled twice, as a state keeps its shapes
    answer, state = decode(parameters, piece, state)
    outputs.append(answer)
  assert decode._cache_size() == 2
  all_close(np.concatenate(outputs, 1), y[1:], 'in pieces, alone', tolerance=5e-5)


@pytest.mark.parametrize('name', ['transformer', 'additive', 'multiplicative', 'convs2s'])
def test_where_a_decoder_looks_can_be_seen(name):
  _, parameters, source, *_ = subject(name)
  _, (_, observed) = reading(name)(parameters, source)
  found = jax.tree.leaves(observed['intermediates']['decoder'])
  found = [weight for weight in found if weight.shape[3] == SOURCE]
  assert len(found) == {'transformer': 2, 'convs2s': 4}.get(name, 1)
  for weight in found:
    assert weight.shape[::2] == (2, TARGET)
    np.testing.assert_allclose(weight.sum(-1), 1, atol=1e-5)
    assert not weight[1, :, :, SOURCE - 2 :].any()


def test_a_fixed_vector_does_not_grow_with_the_source():
  """Here one h and one c a block; what attention looks at does grow."""
  def shapes(name, times):
    model, parameters, source, *_ = subject(name)
    encode = functools.partial(model.apply, capacity=TARGET, method='encode')
    state = jax.eval_shape(encode, parameters, np.tile(source, (1, times)))
    return jax.tree.map(jnp.shape, state)

  assert shapes('fixed_vector', 1) == shapes('fixed_vector', 3) == (None, (((2, WIDTH),) * 2,) * 2)
  assert shapes('multiplicative', 1) != shapes('multiplicative', 3)


def test_the_decoder_starts_where_the_encoder_stopped():
  model, parameters, source, target, _ = subject('fixed_vector')
  states = model.apply(parameters, source, method='encode')
  x = WIDTH**0.5 * parameters['params']['embedding']['embedding'][source]
  _, after = model.encoder.apply({'params': parameters['params']['encoder']}, x)
  all_close(states, (None, after), 'the state')
  y, without = (
    model.apply(parameters, target, state, method='decode')[0]
    for state in (states, jax.tree.map(jnp.zeros_like, states))
  )
  assert np.abs(y - without).max() > 1e-3


def test_reversal_reads_the_last_token_first():
  """A model that reverses, given a source backwards, is one that does not."""
  model, parameters, source, _, mask = subject('fixed_vector')
  backwards = model_of(TRANSLATORS['fixed_vector'](reverse=True), 2)
  forth, back = (
    jax.jit(functools.partial(each.apply, parameters, method='encode'))
    for each in (model, backwards)
  )
  all_close(back(source[:, ::-1], mask=mask[:, ::-1]), forth(source, mask=mask), 'the state')
  moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), back(source, mask=mask),
                       forth(source, mask=mask))
  assert min(jax.tree.leaves(moved)) > 1e-3


def test_bytenet_sees_as_much_of_the_source_as_its_field_reaches_back_to():
  """Tokens of the target are laid on those of the source; there is no other way between them."""
  ((unfold, layer),) = TRANSLATORS_HERE['bytenet'].decoder(1)
  stack = Stack((unfold, layer))
  x = jax.random.normal(jax.random.key(0), (1, 8, 8))
  parameters = stack.init(jax.random.key(1), x)

  @jax.jit
  @jax.jacrev
  def moved(memory):
    state = (unfold.source_projection.apply({}, memory), layer.initial_state(1, 8, 8))
    return jnp.sin(stack.apply(parameters, x, state)[0]).sum((0, 2))

  t, s = np.arange(8)[:, None], np.arange(6)
  within = (t - layer.receptive_field < s) & (s <= t)
  np.testing.assert_array_equal(np.abs(moved(x[:, :6])).sum((1, 3)) > 0, within)


@pytest.mark.parametrize(('make', 'why'), [
  (lambda: TRANSLATORS['fixed_vector'](Attention()), 'state of Attention grows'),
  (lambda: TRANSLATORS['multiplicative'](CATALOGUE['interleave']), 'state of Interleave grows'),
  (lambda: TRANSLATORS['fixed_vector'](CATALOGUE['sliding_window']), 'SlidingWindow grows'),
  (lambda: TRANSLATORS['additive'](Attention()), 'a cell such as GRU or LSTM, not Attention'),
  (lambda: TRANSLATORS['multiplicative'](score='concat'), "no score 'concat'.*general, dot"),
  (lambda: TRANSLATORS['transformer'](num_heads=-1), 'num_heads >= 0, not -1'),
  (lambda: TRANSLATORS['transformer'](Attention(causal=False)), 'a decoder reads one way'),
  (lambda: TRANSLATORS['bytenet'](ByteNet(causal=False)), 'a decoder reads one way'),
  (lambda: TRANSLATORS['convs2s'](levels=0), 'levels >= 1, not 0'),
])
def test_what_cannot_be_is_refused(make, why):
  with pytest.raises(ValueError, match=why):
    make()


CASES = [
  *(('transformer', name) for name in LAYERS), *(('fixed_vector', name) for name in FIXED),
]


def learning(translator, name):
  """Of a model of each part of a layer: parameters, gradients and outputs."""
  layer = CATALOGUE[name]
  model = model_of(TRANSLATORS[translator](layer), len(layer.pattern))
  _, _, source, target, mask = subject('fixed_vector')

  def learn():
    parameters = model.init(jax.random.key(0), source, target)

    def loss(parameters):
      y, _ = model.apply(parameters, source, target, mask=mask)
      return judged(y, None), y

    return parameters, *jax.grad(loss, has_aux=True)(parameters)

  return model, learn


@pytest.mark.parametrize(('translator', 'name'), [('transformer', 'gru'), ('fixed_vector', 's5')])
def test_any_layer_makes_a_model_that_can_learn(translator, name):
  _, learn = learning(translator, name)
  parameters, gradients, y = jax.eval_shape(learn)
  assert jax.tree.map(jnp.shape, gradients) == jax.tree.map(jnp.shape, parameters)
  assert y.shape == (2, TARGET, VOCABULARY)


@pytest.mark.slow
@pytest.mark.parametrize(('translator', 'name'), CASES)
def test_any_layer_translates(translator, name):
  model, learn = learning(translator, name)
  parameters, gradients, y = jax.jit(learn)()
  for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
    assert np.isfinite(gradient).all(), path
  _, _, source, target, _ = subject('fixed_vector')
  alone = model.apply(parameters, source[1:, : SOURCE - 2], target[1:])[0]
  all_close(alone, y[1:], 'a padded source against the source alone', tolerance=1e-4)
