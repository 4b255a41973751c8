"""Attention and its positions, against the papers' equations written out in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.reference import rms_norm
from transformer.attention import FORMS, Attention, SlidingWindow, attend
from transformer.dot_product import AttentionMask, naive
from transformer.positions import (
  POSITIONS,
  AddLearned,
  AddSinusoid,
  ALiBi,
  Relative,
  Rotary,
  T5Bias,
)

HEADS, WIDTH, LENGTH = 2, 8, 7
ABSOLUTE = ('sinusoidal', 'learned')
RELATIVE = ('rotary', 'alibi', 't5_bias', 'shaw')
BUCKETS = {'num_buckets': 8, 'max_distance': 32}  # far buckets begin within LENGTH
SETTINGS = {'t5_bias': BUCKETS, 'shaw': {'max_distance': 3}}


def softmax_average(scores, values):
  """Sum of values [S, K] weighted by the softmax of scores [S]."""
  weights = np.exp(scores - np.max(scores))
  return weights @ values / weights.sum()


def reference_attention(query, key, value, visible, bias, vectors=None, soft_cap=0):
  """Equation 1 of the paper for [B, T, H, K], one query of one head at a time.

  Vectors: a pair of tables [T, S, K], for Shaw's keys and values.
  """
  out = np.zeros(query.shape)
  shared = query.shape[2] // key.shape[2]
  to_key, to_value = np.zeros((2, query.shape[1], key.shape[1], 1)) if vectors is None else vectors
  for b, t, h in np.ndindex(*query.shape[:3]):
    seen = np.flatnonzero(visible[b % len(visible), t])
    if len(seen) == 0:
      continue
    keys, values = key[b, :, h // shared] + to_key[t], value[b, :, h // shared] + to_value[t]
    product = np.array([query[b, t, h] @ keys[s] / np.sqrt(query.shape[3]) for s in seen])
    if soft_cap:
      product = soft_cap * np.tanh(product / soft_cap)
    out[b, t, h] = softmax_average(product + bias[h, t, seen], values[seen])
  return out


def t5_bucket(distance, num_buckets=32, max_distance=128):
  """The last bucket whose lower bound e (m / e)^(i / (n - e)) is not above the distance."""
  exact = num_buckets // 2
  far = num_buckets - exact
  if distance < exact:
    return max(distance, 0)
  reached = (i for i in range(far) if distance**far * exact**i >= exact**far * max_distance**i)
  return exact + max(reached)


def rotated(x, index):
  """Rotary positions as the product of complex numbers."""
  half = x.shape[-1] // 2
  pair = x[..., :half] + 1j * x[..., half:]
  angle = np.array(index)[:, None] * 10000.0 ** (-2 * np.arange(half) / (2 * half))
  turned = pair * np.exp(1j * angle)[None, :, None, :]
  return np.concatenate([turned.real, turned.imag], -1)


def reference_bias(name, parameters, heads, length):
  """What ALiBi or T5 adds to the scores [H, T, S]."""
  bias = np.zeros((heads, length, length))
  for h, t, s in np.ndindex(bias.shape):
    if name == 'alibi':
      bias[h, t, s] = -(2.0 ** (-8 * (h + 1) / heads)) * (t - s)
    elif name == 't5_bias':
      bias[h, t, s] = parameters['positions']['bias'][t5_bucket(t - s, **BUCKETS), h]
  return bias


def reference_layer(layer, name, x, parameters, mask):
  """Multi-head attention over x [B, T, D] with the relative positions of that name."""
  parameters = jax.tree.map(lambda p: np.asarray(p, np.float64), parameters['params'])
  heads, length = layer.num_heads, x.shape[1]
  projected = np.einsum('BTD,DHK->BTHK', x.astype(np.float64), parameters['projection']['kernel'])
  key_heads = (projected.shape[2] - heads) // 2
  query, key, value = np.split(projected, (heads, heads + key_heads), 2)
  if layer.query_key_norm:
    query = rms_norm(query, parameters['query_norm']['scale'])
    key = rms_norm(key, parameters['key_norm']['scale'])
  if name == 'rotary':
    query, key = rotated(query, range(length)), rotated(key, range(length))
  distance = np.arange(length)[:, None] - np.arange(length)
  vectors = None
  if name == 'shaw':
    tables = parameters['positions']
    vectors = [tables[which][np.clip(distance, 0, 3)] for which in ('key', 'value')]
  visible = (distance >= 0) & (distance < (layer.window or length)) & mask[:, None, :]
  bias = reference_bias(name, parameters, heads, length)
  y = reference_attention(query, key, value, visible, bias, vectors, layer.soft_cap)
  return np.einsum('BTHK,HKD->BTD', y, parameters['output']['kernel'])


@functools.cache
def subject(name, num_heads=HEADS, **options):
  """Attention with these positions, its parameters, what applies both (and the prelude)."""
  positions = POSITIONS[name](**SETTINGS.get(name, {}))
  layer, input_layer = Attention(num_heads, positions, **options), positions.input_layer
  generator = np.random.default_rng(0)

  def drawn(like):  # large enough for positions to matter
    return jnp.array(generator.normal(0, 0.5, like.shape), jnp.float32)

  x = np.asarray(drawn(np.empty((2, LENGTH, WIDTH))))
  shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
  below = {} if input_layer is None else jax.eval_shape(input_layer.init, jax.random.key(0), x)
  parameters, below = jax.tree.map(drawn, (shapes, below))

  @jax.jit
  def read(x, mask):
    x = x if input_layer is None else input_layer.apply(below, x)[0]
    return layer.apply(parameters, x, mask=mask)[0]

  def whole(x, mask=None):
    mask = np.ones(x.shape[:2], bool) if mask is None else mask
    return np.asarray(read(x, mask))

  return layer, parameters, x, whole


def test_dot_product_attention_is_equation_1():
  generator = np.random.default_rng(0)
  query = generator.normal(size=(2, 3, 2, 4)).astype(np.float32)
  key, value = generator.normal(size=(2, 2, 5, 2, 4)).astype(np.float32)
  bias = generator.normal(size=(5, 2)).astype(np.float32)
  valid = generator.random((2, 5)) < 0.6
  valid[0, :3] = False  # the first query looks nowhere: 0
  distance = 2 + np.arange(3)[:, None] - np.arange(5)
  visible = (distance >= 0) & valid[:, None]
  blocks = query.transpose(0, 2, 1, 3)[:, :, None], *np.transpose([key, value], (0, 1, 3, 4, 2))
  for relative, added in ((Relative(score=bias), bias), (Relative(), 0 * bias)):
    y = naive(*blocks, AttentionMask(2, 0, valid), relative)[:, :, 0].transpose(0, 2, 1, 3)
    added = added[np.maximum(distance, 0)].transpose(2, 0, 1)
    expected = reference_attention(query, key, value, visible, added)
    np.testing.assert_allclose(y, expected, atol=1e-5)
  assert not expected[0, 0].any()


EVERYTHING = {'num_heads': 4, 'num_key_value_heads': 2, 'soft_cap': 0.8, 'query_key_norm': True}


@pytest.mark.parametrize(
  ('name', 'options'),
  [
    *((name, {}) for name in ('none', *RELATIVE)),
    ('none', {'num_heads': 4, 'num_key_value_heads': 2}),
    ('alibi', {'num_heads': 4, 'num_key_value_heads': 1}),
    ('rotary', {'window': 3}),
    ('none', {'soft_cap': 0.5}),
    ('rotary', {'query_key_norm': True}),
    *((name, {'window': 4, **EVERYTHING}) for name in ('rotary', 't5_bias', 'shaw')),
  ],
)
def test_a_layer_is_its_equations(name, options):
  layer, parameters, x, read = subject(name, **options)
  mask = np.ones(x.shape[:2], bool)
  mask[0, 2] = mask[1, 4] = mask[1, 5] = False
  expected = reference_layer(layer, name, x, parameters, mask)
  np.testing.assert_allclose(read(x, mask)[mask], expected[mask], atol=2e-5)


def test_absolute_positions_leave_the_layer_itself_as_without_positions():
  _, parameters, x, read = subject('none')
  for name in ABSOLUTE:
    layer = subject(name)[0]
    np.testing.assert_allclose(jax.jit(layer.apply)(parameters, x)[0], read(x), atol=1e-6)


@pytest.mark.parametrize('name', POSITIONS)
def test_only_absolute_positions_notice_a_shift(name):
  """Padding in front moves every token to a later position; relative answers stay the same."""
  _, _, x, read = subject(name)
  padding = 3
  late = np.concatenate([x[:, :padding], x], 1)
  shown = np.broadcast_to(np.arange(LENGTH + padding) >= padding, late.shape[:2])
  moved = np.abs(read(late, shown)[:, padding:] - read(x)).max()
  if name in ABSOLUTE:
    assert moved > 1e-3
  else:
    assert moved < 2e-5


@pytest.mark.parametrize('name', POSITIONS)
def test_without_positions_the_past_is_a_set_and_with_them_it_is_not(name):
  _, _, x, read = subject(name)
  shuffled = x[:, np.array([3, 0, 5, 1, 4, 2, 6])]
  moved = np.abs(read(shuffled)[:, -1] - read(x)[:, -1]).max()
  if name == 'none':
    assert moved < 1e-5
  else:
    assert moved > 1e-3


@settings(deadline=None, max_examples=20)
@given(shift=st.integers(0, 4000))
def test_relative_scores_depend_on_the_distance_alone(shift):
  query, key = np.random.default_rng(1).normal(size=(2, 1, HEADS, LENGTH, 4)).astype(np.float32)
  index = np.arange(LENGTH)

  def scores(start):
    turned = (np.asarray(Rotary().rotate(a, start + index), np.float64) for a in (query, key))
    return np.einsum('BHTK,BHSK->BHTS', *turned)

  np.testing.assert_allclose(scores(shift), scores(0), atol=3e-3)  # angles in float32


@pytest.mark.parametrize('width', [2, 8, 9])
def test_sinusoids_are_the_papers_with_its_even_channels_first(width):
  """PE(t, 2i) = sin(t / 10000^(2i/D)), PE(t, 2i+1) = cos: here all sines, then all cosines."""
  even = width + width % 2  # an odd width is the next even one without its last cosine
  paper = np.zeros((50, even))
  for t, i in np.ndindex(50, even // 2):
    paper[t, 2 * i] = np.sin(t / 10000 ** (2 * i / even))
    paper[t, 2 * i + 1] = np.cos(t / 10000 ** (2 * i / even))
  expected = np.concatenate([paper[:, ::2], paper[:, 1::2]], 1)[:, :width]
  added, state = AddSinusoid().apply({}, jnp.ones((1, 50, width)))
  np.testing.assert_allclose(added[0] - 1, expected, atol=1e-5)
  later, _ = AddSinusoid().apply({}, jnp.zeros((1, 3, width)), state - 4)
  np.testing.assert_allclose(later[0], expected[46:49], atol=1e-5)


def test_rotary_keeps_lengths_and_starts_from_no_turn():
  x = np.random.default_rng(2).normal(size=(1, HEADS, LENGTH, 4)).astype(np.float32)
  turned = Rotary().rotate(x, np.arange(LENGTH))
  length = np.linalg.norm(x, axis=-1)
  np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), length, atol=1e-5)
  np.testing.assert_array_equal(turned[:, :, 0], x[:, :, 0])
  assert np.abs(turned[:, :, 1:] - x[:, :, 1:]).max() > 0.1


@pytest.mark.parametrize(('heads', 'exponents'), [
  (1, [8]), (2, [4, 8]), (3, [4, 8, 2]), (6, [2, 4, 6, 8, 1, 3]), (8, range(1, 9)),
  (12, [*range(1, 9), 0.5, 1.5, 2.5, 3.5]),
])
def test_alibi_slopes_are_the_published_ones(heads, exponents):
  """2^-e; for numbers of heads that are no power of two as in the authors' code."""
  bias = ALiBi().relative(3, heads, 4).score
  np.testing.assert_allclose(-bias[1], 0.5 ** np.array(exponents), rtol=1e-7)
  np.testing.assert_allclose(bias[2], 2 * bias[1], rtol=1e-7)
  assert not bias[0].any()


@pytest.mark.parametrize(('num_buckets', 'max_distance'), [(32, 128), (8, 32), (20, 100), (8, 64)])
def test_t5_buckets_are_those_of_exact_arithmetic(num_buckets, max_distance):
  table = {'params': {'bias': jnp.arange(num_buckets, dtype=jnp.float32)[:, None]}}
  positions, distances = T5Bias(num_buckets, max_distance), 2 * max_distance
  found = positions.apply(table, distances, 1, 4, method='relative').score
  expected = [t5_bucket(d, num_buckets, max_distance) for d in range(distances)]
  np.testing.assert_array_equal(found[:, 0], expected)


def test_learned_positions_beyond_the_table_are_nan():
  layer, x = AddLearned(max_length=4), jnp.zeros((1, 6, 2))
  parameters = layer.init(jax.random.key(0), x)
  y, _ = layer.apply(parameters, x)
  np.testing.assert_array_equal(y[0, :4], parameters['params']['positions'])
  assert np.isnan(y[:, 4:]).all()
  assert np.isnan(layer.apply(parameters, x[:, :1], jnp.int32(4))[0]).all()
  assert np.isfinite(layer.apply(parameters, x[:, :1], jnp.int32(3))[0]).all()


def test_a_full_memory_answers_and_an_overfull_one_answers_nan():
  layer, parameters, x, read = subject('rotary')
  step = jax.jit(layer.apply)
  first, state = step(parameters, x[:, :3], layer.initial_state(2, 5, WIDTH))
  second, full = step(parameters, x[:, 3:5], state)
  np.testing.assert_allclose(np.concatenate([first, second], 1), read(x)[:, :5], atol=1e-5)
  over, beyond = step(parameters, x[:, 3:6], state)
  assert np.isnan(over).all(), 'a call that does not fit'
  for after in (full, beyond):
    assert np.isnan(step(parameters, x[:, 5:6], after)[0]).all(), 'a call after the memory was full'


@pytest.mark.parametrize(
  ('positions', 'width', 'multiple'), [('none', 8, 3), ('rotary', 9, 6), ('rotary', 8, 6)]
)
def test_a_width_that_the_heads_cannot_share_is_refused_with_what_they_can(
  positions, width, multiple
):
  layer = Attention(3, POSITIONS[positions]())
  assert layer.width_multiple == multiple
  with pytest.raises(ValueError, match=f'width of {width} .*3 heads.*multiples of {multiple}$'):
    layer.initial_state(1, 4, width)
  with pytest.raises(ValueError, match=f'multiples of {multiple}'):
    layer.init(jax.random.key(0), jnp.zeros((1, 4, width)))
  assert layer.initial_state(1, 4, 2 * multiple).key.shape[2] * 3 == 2 * multiple


@pytest.mark.parametrize('capacity', [1, 2, 5, 100])
def test_a_window_is_streamed_for_any_capacity_and_its_memory_does_not_grow(capacity):
  layer, parameters, x, read = subject('alibi', window=4)
  step, whole = jax.jit(layer.apply), read(x)
  state = layer.initial_state(2, capacity, WIDTH)
  assert state.key.shape[-1] == min(capacity, 3)
  for t in range(LENGTH):
    y, state = step(parameters, x[:, t : t + 1], state)
    if t < capacity or capacity >= 3:  # else there was no room for what it should have seen
      np.testing.assert_allclose(y[:, 0], whole[:, t], atol=1e-5)
    else:
      assert np.isnan(y).all()


@pytest.mark.parametrize(
  ('options', 'named'),
  [
    ({'num_heads': 0}, 'num_heads >= 1, not 0'),
    ({'num_key_value_heads': 3}, '4 heads cannot share 3 keys.*divisor'),
    ({'num_key_value_heads': -1}, 'num_key_value_heads >= 0, not -1'),
    ({'window': -2}, 'window >= 0, not -2'),
    ({'soft_cap': -1.0}, 'soft_cap >= 0, not -1.0'),
    ({'form': 'fast'}, 'fast.*auto, naive, blocked, fused'),
  ],
)
def test_what_is_no_attention_is_refused_by_name(options, named):
  with pytest.raises(ValueError, match=named):
    Attention(**options)


@pytest.mark.parametrize('form', FORMS[1:3])
def test_a_query_that_may_look_nowhere_answers_0_and_no_step_of_its_gradient_is_nan(form):
  query, key = jnp.ones((1, 1, 1, 2, 3)), jnp.ones((1, 1, 3, 2))
  nowhere = AttentionMask(valid=jnp.zeros((1, 2), bool))

  def read(query, key, value):
    y = attend(query, key, value, nowhere, form=form)
    return jnp.sum(jnp.exp(y)), y

  with jax.debug_nans(True):
    gradients, y = jax.grad(read, range(3), has_aux=True)(query, key, key)
  assert not y.any() and not any(g.any() for g in gradients)


@pytest.mark.parametrize('form', FORMS)
def test_no_queries_and_no_keys_are_attention_too(form):
  query, key = jnp.ones((1, 1, 1, 2, 3)), jnp.ones((1, 1, 3, 2))
  assert attend(query[..., :0, :], key, key, AttentionMask(), form=form).shape == (1, 1, 1, 0, 3)
  y = attend(query, key[..., :0], key[..., :0], AttentionMask(causal=False), form=form)
  np.testing.assert_array_equal(y, jnp.zeros_like(query))


def test_a_sliding_window_is_attention_with_a_window():
  assert SlidingWindow().receptive_field == SlidingWindow().window == 16
  with pytest.raises(ValueError, match='SlidingWindow needs window >= 1, not 0'):
    SlidingWindow(window=0)
  with pytest.raises(ValueError, match='max_distance >= 1, not 0'):
    POSITIONS['shaw'](0)
