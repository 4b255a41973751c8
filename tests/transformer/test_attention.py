"""Attention and its position encodings match the papers' equations in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.reference import rms_norm
from transformer.attention import FORMS, Attention, SlidingWindow, attend
from transformer.dot_product import AttentionMask, dense_attention
from transformer.positions import (
  POSITIONS,
  AddLearned,
  AddSinusoid,
  ALiBi,
  RelativePositionTerms,
  Rotary,
  T5Bias,
)

HEADS, WIDTH, LENGTH = 2, 8, 7
ABSOLUTE = ('sinusoidal', 'learned')
RELATIVE = ('rotary', 'alibi', 't5_bias', 'shaw')
BUCKETS = {'num_buckets': 8, 'max_distance': 32}  # the logarithmic buckets begin within LENGTH
SETTINGS = {'t5_bias': BUCKETS, 'shaw': {'max_distance': 3}}


def softmax_average(scores, values):
  """The average of values [S, K] weighted by the softmax of scores [S]."""
  weights = np.exp(scores - np.max(scores))
  return weights @ values / weights.sum()


def reference_attention(query, key, value, visible, bias, vectors=None, soft_cap=0):
  """Equation 1 of the paper for queries [B, T, H, K], one query of one head at a time.

  `vectors` is a pair of arrays [T, S, K], the relative vectors of Shaw for keys and values.
  """
  out = np.zeros(query.shape)
  shared = query.shape[2] // key.shape[2]
  if vectors is None:
    vectors = np.zeros((2, query.shape[1], key.shape[1], 1))
  key_vectors, value_vectors = vectors
  for b, t, h in np.ndindex(*query.shape[:3]):
    allowed = np.flatnonzero(visible[b % len(visible), t])
    if len(allowed) == 0:
      continue
    keys = key[b, :, h // shared] + key_vectors[t]
    values = value[b, :, h // shared] + value_vectors[t]
    product = np.array([query[b, t, h] @ keys[s] / np.sqrt(query.shape[3]) for s in allowed])
    if soft_cap:
      product = soft_cap * np.tanh(product / soft_cap)
    out[b, t, h] = softmax_average(product + bias[h, t, allowed], values[allowed])
  return out


def t5_bucket(distance, num_buckets=32, max_distance=128):
  """The last bucket with a lower bound e (m / e)^(i / (n - e)) of at most the distance."""
  exact = num_buckets // 2
  logarithmic = num_buckets - exact
  if distance < exact:
    return max(distance, 0)
  return exact + max(
    i for i in range(logarithmic)
    if distance**logarithmic * exact**i >= exact**logarithmic * max_distance**i)


def rotate_complex_pairs(x, index):
  """Rotates channel pairs of x [B, T, H, K] by a product of complex numbers."""
  half = x.shape[-1] // 2
  pair = x[..., :half] + 1j * x[..., half:]
  angle = np.array(index)[:, None] * 10000.0 ** (-2 * np.arange(half) / (2 * half))
  product = pair * np.exp(1j * angle)[None, :, None, :]
  return np.concatenate([product.real, product.imag], -1)


def reference_bias(name, parameters, heads, length):
  """The bias [H, T, S] that ALiBi or T5 adds to the scores."""
  bias = np.zeros((heads, length, length))
  for h, t, s in np.ndindex(bias.shape):
    if name == 'alibi':
      bias[h, t, s] = -(2.0 ** (-8 * (h + 1) / heads)) * (t - s)
    elif name == 't5_bias':
      bias[h, t, s] = parameters['positions']['bias'][t5_bucket(t - s, **BUCKETS), h]
  return bias


def reference_layer(layer, name, x, parameters, mask):
  """Multi-head attention over x [B, T, D] with the named relative positions, in float64."""
  parameters = jax.tree.map(lambda p: np.asarray(p, np.float64), parameters['params'])
  heads, length = layer.num_heads, x.shape[1]
  projected = np.einsum('BTD,DHK->BTHK', x.astype(np.float64), parameters['projection']['kernel'])
  key_heads = (projected.shape[2] - heads) // 2
  query, key, value = np.split(projected, (heads, heads + key_heads), 2)
  if layer.query_key_norm:
    query = rms_norm(query, parameters['query_norm']['scale'])
    key = rms_norm(key, parameters['key_norm']['scale'])
  if name == 'rotary':
    query, key = (rotate_complex_pairs(x, range(length)) for x in (query, key))
  distance = np.arange(length)[:, None] - np.arange(length)
  vectors = None
  if name == 'shaw':
    tables = parameters['positions']
    vectors = [tables[term][np.clip(distance, 0, 3)] for term in ('key', 'value')]
  visible = (distance >= 0) & (distance < (layer.window or length)) & mask[:, None, :]
  bias = reference_bias(name, parameters, heads, length)
  y = reference_attention(query, key, value, visible, bias, vectors, layer.soft_cap)
  return np.einsum('BTHK,HKD->BTD', y, parameters['output']['kernel'])


@functools.cache
def attention_with_positions(name, num_heads=HEADS, **options):
  """Returns a layer with the named positions, its parameters, an input and its output function."""
  positions = POSITIONS[name](**SETTINGS.get(name, {}))
  layer, input_layer = Attention(num_heads, positions, **options), positions.input_layer
  generator = np.random.default_rng(0)

  def draw_like(array):  # large enough for positions to affect the outputs
    return jnp.array(generator.normal(0, 0.5, array.shape), jnp.float32)

  x = np.asarray(draw_like(np.empty((2, LENGTH, WIDTH))))
  shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
  input_shapes = {}
  if input_layer is not None:
    input_shapes = jax.eval_shape(input_layer.init, jax.random.key(0), x)
  parameters, input_parameters = jax.tree.map(draw_like, (shapes, input_shapes))

  @jax.jit
  def apply_layers(x, mask):
    x = x if input_layer is None else input_layer.apply(input_parameters, x)[0]
    return layer.apply(parameters, x, mask=mask)[0]

  def outputs(x, mask=None):
    mask = np.ones(x.shape[:2], bool) if mask is None else mask
    return np.asarray(apply_layers(x, mask))

  return layer, parameters, x, outputs


def test_dot_product_attention_matches_equation_1():
  generator = np.random.default_rng(0)
  query = generator.normal(size=(2, 3, 2, 4)).astype(np.float32)
  key, value = generator.normal(size=(2, 2, 5, 2, 4)).astype(np.float32)
  bias = generator.normal(size=(5, 2)).astype(np.float32)
  valid = generator.random((2, 5)) < 0.6
  valid[0, :3] = False  # all keys of the first query are masked
  distance = 2 + np.arange(3)[:, None] - np.arange(5)
  visible = (distance >= 0) & valid[:, None]
  blocks = query.transpose(0, 2, 1, 3)[:, :, None], *np.transpose([key, value], (0, 1, 3, 4, 2))
  with_bias, without_bias = RelativePositionTerms(score=bias), RelativePositionTerms()
  for relative, added in ((with_bias, bias), (without_bias, 0 * bias)):
    y = dense_attention(*blocks, AttentionMask(2, 0, valid), relative)
    y = y[:, :, 0].transpose(0, 2, 1, 3)
    added = added[np.maximum(distance, 0)].transpose(2, 0, 1)
    expected = reference_attention(query, key, value, visible, added)
    np.testing.assert_allclose(y, expected, atol=1e-5)
  assert not expected[0, 0].any()


ALL_OPTIONS = {'num_heads': 4, 'num_key_value_heads': 2, 'soft_cap': 0.8, 'query_key_norm': True}


@pytest.mark.parametrize(
  ('name', 'options'),
  [
    *((name, {}) for name in ('none', *RELATIVE)),
    ('none', {'num_heads': 4, 'num_key_value_heads': 2}),
    ('alibi', {'num_heads': 4, 'num_key_value_heads': 1}),
    ('rotary', {'window': 3}),
    ('none', {'soft_cap': 0.5}),
    ('rotary', {'query_key_norm': True}),
    *((name, {'window': 4, **ALL_OPTIONS}) for name in ('rotary', 't5_bias', 'shaw')),
  ],
)
def test_attention_layer_matches_its_equations(name, options):
  layer, parameters, x, outputs = attention_with_positions(name, **options)
  mask = np.ones(x.shape[:2], bool)
  mask[0, 2] = mask[1, 4] = mask[1, 5] = False
  expected = reference_layer(layer, name, x, parameters, mask)
  np.testing.assert_allclose(outputs(x, mask)[mask], expected[mask], atol=2e-5)


def test_absolute_positions_do_not_change_the_attention_layer():
  _, parameters, x, outputs = attention_with_positions('none')
  for name in ABSOLUTE:
    layer = attention_with_positions(name)[0]
    np.testing.assert_allclose(jax.jit(layer.apply)(parameters, x)[0], outputs(x), atol=1e-6)


@pytest.mark.parametrize('name', POSITIONS)
def test_only_absolute_positions_depend_on_a_shift(name):
  """Left padding shifts every token to a later position, which relative encodings ignore."""
  _, _, x, outputs = attention_with_positions(name)
  padding = 3
  shifted = np.concatenate([x[:, :padding], x], 1)
  mask = np.broadcast_to(np.arange(LENGTH + padding) >= padding, shifted.shape[:2])
  change = np.abs(outputs(shifted, mask)[:, padding:] - outputs(x)).max()
  if name in ABSOLUTE:
    assert change > 1e-3
  else:
    assert change < 2e-5


@pytest.mark.parametrize('name', POSITIONS)
def test_token_order_matters_only_with_positions(name):
  _, _, x, outputs = attention_with_positions(name)
  shuffled = x[:, np.array([3, 0, 5, 1, 4, 2, 6])]
  change = np.abs(outputs(shuffled)[:, -1] - outputs(x)[:, -1]).max()
  if name == 'none':
    assert change < 1e-5
  else:
    assert change > 1e-3


@settings(deadline=None, max_examples=20)
@given(shift=st.integers(0, 4000))
def test_rotary_scores_depend_on_the_distance_alone(shift):
  query, key = np.random.default_rng(1).normal(size=(2, 1, HEADS, LENGTH, 4)).astype(np.float32)
  index = np.arange(LENGTH)

  def rotary_scores(start):
    rotated = (np.asarray(Rotary().rotate(a, start + index), np.float64) for a in (query, key))
    return np.einsum('BHTK,BHSK->BHTS', *rotated)

  np.testing.assert_allclose(rotary_scores(shift), rotary_scores(0), atol=3e-3)  # angles in float32


@pytest.mark.parametrize('width', [2, 8, 9])
def test_sinusoids_match_the_paper_with_sines_before_cosines(width):
  """The paper alternates sines sin(t / 10000^(2i/D)) and cosines, the layer groups them."""
  even = width + width % 2  # an odd width lacks the last cosine of the next even width
  paper = np.zeros((50, even))
  for t, i in np.ndindex(50, even // 2):
    paper[t, 2 * i] = np.sin(t / 10000 ** (2 * i / even))
    paper[t, 2 * i + 1] = np.cos(t / 10000 ** (2 * i / even))
  expected = np.concatenate([paper[:, ::2], paper[:, 1::2]], 1)[:, :width]
  added, state = AddSinusoid().apply({}, jnp.ones((1, 50, width)))
  np.testing.assert_allclose(added[0] - 1, expected, atol=1e-5)
  later, _ = AddSinusoid().apply({}, jnp.zeros((1, 3, width)), state - 4)
  np.testing.assert_allclose(later[0], expected[46:49], atol=1e-5)


def test_rotary_preserves_norms_and_leaves_position_0_unchanged():
  x = np.random.default_rng(2).normal(size=(1, HEADS, LENGTH, 4)).astype(np.float32)
  rotated = Rotary().rotate(x, np.arange(LENGTH))
  norm = np.linalg.norm(x, axis=-1)
  np.testing.assert_allclose(np.linalg.norm(rotated, axis=-1), norm, atol=1e-5)
  np.testing.assert_array_equal(rotated[:, :, 0], x[:, :, 0])
  assert np.abs(rotated[:, :, 1:] - x[:, :, 1:]).max() > 0.1


@pytest.mark.parametrize(('heads', 'exponents'), [
  (1, [8]), (2, [4, 8]), (3, [4, 8, 2]), (6, [2, 4, 6, 8, 1, 3]), (8, range(1, 9)),
  (12, [*range(1, 9), 0.5, 1.5, 2.5, 3.5]),
])
def test_alibi_slopes_match_the_published_slopes(heads, exponents):
  """The slopes are 2^-e, also for numbers of heads that are not a power of two."""
  bias = ALiBi().relative_position_terms(3, heads, 4).score
  np.testing.assert_allclose(-bias[1], 0.5 ** np.array(exponents), rtol=1e-7)
  np.testing.assert_allclose(bias[2], 2 * bias[1], rtol=1e-7)
  assert not bias[0].any()


@pytest.mark.parametrize(('num_buckets', 'max_distance'), [(32, 128), (8, 32), (20, 100), (8, 64)])
def test_t5_buckets_match_integer_arithmetic(num_buckets, max_distance):
  table = {'params': {'bias': jnp.arange(num_buckets, dtype=jnp.float32)[:, None]}}
  positions, distances = T5Bias(num_buckets, max_distance), 2 * max_distance
  score = positions.apply(table, distances, 1, 4, method='relative_position_terms').score
  expected = [t5_bucket(d, num_buckets, max_distance) for d in range(distances)]
  np.testing.assert_array_equal(score[:, 0], expected)


def test_learned_positions_beyond_the_table_are_nan():
  layer, x = AddLearned(max_length=4), jnp.zeros((1, 6, 2))
  parameters = layer.init(jax.random.key(0), x)
  y, _ = layer.apply(parameters, x)
  np.testing.assert_array_equal(y[0, :4], parameters['params']['positions'])
  assert np.isnan(y[:, 4:]).all()
  assert np.isnan(layer.apply(parameters, x[:, :1], jnp.int32(4))[0]).all()
  assert np.isfinite(layer.apply(parameters, x[:, :1], jnp.int32(3))[0]).all()


def test_outputs_are_nan_only_beyond_the_cache_capacity():
  layer, parameters, x, outputs = attention_with_positions('rotary')
  step = jax.jit(layer.apply)
  first, state = step(parameters, x[:, :3], layer.initial_state(2, 5, WIDTH))
  second, full = step(parameters, x[:, 3:5], state)
  np.testing.assert_allclose(np.concatenate([first, second], 1), outputs(x)[:, :5], atol=1e-5)
  outputs_beyond, exceeded = step(parameters, x[:, 3:6], state)
  assert np.isnan(outputs_beyond).all(), 'three tokens in two free slots'
  for state in (full, exceeded):
    assert np.isnan(step(parameters, x[:, 5:6], state)[0]).all(), 'a token after the last slot'


@pytest.mark.parametrize(
  ('positions', 'width', 'multiple'), [('none', 8, 3), ('rotary', 9, 6), ('rotary', 8, 6)]
)
def test_invalid_widths_raise_an_error_that_names_valid_multiples(
  positions, width, multiple
):
  layer = Attention(3, POSITIONS[positions]())
  assert layer.required_width_divisor == multiple
  with pytest.raises(ValueError, match=f'width of {width} .*3 heads.*multiples of {multiple}$'):
    layer.initial_state(1, 4, width)
  with pytest.raises(ValueError, match=f'multiples of {multiple}'):
    layer.init(jax.random.key(0), jnp.zeros((1, 4, width)))
  assert layer.initial_state(1, 4, 2 * multiple).key.shape[2] * 3 == 2 * multiple


@pytest.mark.parametrize('capacity', [1, 2, 5, 100])
def test_windowed_streaming_uses_a_cache_of_constant_size(capacity):
  layer, parameters, x, outputs = attention_with_positions('alibi', window=4)
  step, expected = jax.jit(layer.apply), outputs(x)
  state = layer.initial_state(2, capacity, WIDTH)
  assert state.key.shape[-1] == min(capacity, 3)
  for t in range(LENGTH):
    y, state = step(parameters, x[:, t : t + 1], state)
    if t < capacity or capacity >= 3:  # else the cache lacks tokens of the window
      np.testing.assert_allclose(y[:, 0], expected[:, t], atol=1e-5)
    else:
      assert np.isnan(y).all()


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'num_heads': 0}, 'num_heads >= 1, not 0'),
    ({'num_key_value_heads': 3}, '4 heads cannot share 3 keys.*multiple'),
    ({'num_key_value_heads': -1}, 'num_key_value_heads >= 0, not -1'),
    ({'window': -2}, 'window >= 0, not -2'),
    ({'soft_cap': -1.0}, 'soft_cap >= 0, not -1.0'),
    ({'form': 'fast'}, 'fast.*auto, naive, blocked, fused'),
  ],
)
def test_invalid_attention_options_raise_errors(options, message):
  with pytest.raises(ValueError, match=message):
    Attention(**options)


@pytest.mark.parametrize('form', FORMS[1:3])
def test_a_fully_masked_query_has_output_0_and_finite_gradients(form):
  query, key = jnp.ones((1, 1, 1, 2, 3)), jnp.ones((1, 1, 3, 2))
  all_masked = AttentionMask(valid=jnp.zeros((1, 2), bool))

  def loss_and_output(query, key, value):
    y = attend(query, key, value, all_masked, form=form)
    return jnp.sum(jnp.exp(y)), y

  with jax.debug_nans(True):
    gradients, y = jax.grad(loss_and_output, range(3), has_aux=True)(query, key, key)
  assert not y.any() and not any(g.any() for g in gradients)


@pytest.mark.parametrize('form', FORMS)
def test_attention_accepts_zero_queries_or_zero_keys(form):
  query, key = jnp.ones((1, 1, 1, 2, 3)), jnp.ones((1, 1, 3, 2))
  assert attend(query[..., :0, :], key, key, AttentionMask(), form=form).shape == (1, 1, 1, 0, 3)
  y = attend(query, key[..., :0], key[..., :0], AttentionMask(causal=False), form=form)
  np.testing.assert_array_equal(y, jnp.zeros_like(query))


def test_sliding_window_requires_a_positive_window():
  assert SlidingWindow().receptive_field == SlidingWindow().window == 16
  with pytest.raises(ValueError, match='SlidingWindow needs window >= 1, not 0'):
    SlidingWindow(window=0)
  with pytest.raises(ValueError, match='max_distance >= 1, not 0'):
    POSITIONS['shaw'](0)
