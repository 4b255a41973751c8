"""Attention and its positions, against the papers' equations written out in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transformer.attention import Attention, dot_product_attention
from transformer.positions import POSITIONS, AddLearned, AddSinusoid, ALiBi, Rotary, T5Bias

HEADS, WIDTH, LENGTH = 2, 8, 7
ABSOLUTE = ('sinusoidal', 'learned')
RELATIVE = ('rotary', 'alibi', 't5_bias')
BUCKETS = {'num_buckets': 8, 'max_distance': 32}  # far buckets begin within LENGTH


def softmax_average(scores, values):
  """Sum of values [S, K] weighted by the softmax of scores [S]."""
  weights = np.exp(scores - np.max(scores))
  return weights @ values / weights.sum()


def reference_attention(query, key, value, visible, bias):
  """Equation 1 of the paper for [B, T, H, K], one query of one head at a time."""
  query, key, value = (np.asarray(a, np.float64) for a in (query, key, value))
  out = np.zeros((*query.shape[:3], value.shape[3]))
  for b, t, h in np.ndindex(*query.shape[:3]):
    seen = np.flatnonzero(visible[b % len(visible), t])
    if len(seen) == 0:
      out[b, t, h] = value[b, :, h].mean(0)
      continue
    product = [query[b, t, h] @ key[b, s, h] / np.sqrt(query.shape[3]) for s in seen]
    out[b, t, h] = softmax_average(product + bias[h, t, seen], value[b, seen, h])
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


def reference_layer(name, x, parameters, mask):
  """Multi-head attention over x [B, T, D] with the relative positions of that name."""
  parameters = jax.tree.map(lambda p: np.asarray(p, np.float64), parameters['params'])
  length = x.shape[1]
  query, key, value = np.einsum(
    'BTD,DIHK->IBTHK', np.asarray(x, np.float64), parameters['projection']['kernel']
  )
  bias = np.zeros((HEADS, length, length))
  for h, t, s in np.ndindex(bias.shape):
    if name == 'alibi':
      bias[h, t, s] = -(2.0 ** (-8 * (h + 1) / HEADS)) * (t - s)
    elif name == 't5_bias':
      bias[h, t, s] = parameters['positions']['bias'][h, t5_bucket(t - s, **BUCKETS)]
  if name == 'rotary':
    query, key = rotated(query, range(length)), rotated(key, range(length))
  visible = np.tril(np.ones((length, length), bool)) & mask[:, None, :]
  heads = reference_attention(query, key, value, visible, bias)
  return np.einsum('BTHK,HKD->BTD', heads, parameters['output']['kernel'])


@functools.cache
def subject(name):
  """Attention with these positions, its parameters, what applies both (and the prelude)."""
  positions = POSITIONS[name](**(BUCKETS if name == 't5_bias' else {}))
  layer, prelude = Attention(HEADS, positions), positions.prelude
  generator = np.random.default_rng(0)

  def drawn(like):  # large enough for positions to matter
    return jnp.array(generator.normal(0, 0.5, like.shape), jnp.float32)

  x = np.asarray(drawn(np.empty((2, LENGTH, WIDTH))))
  shapes = jax.eval_shape(layer.init, jax.random.key(0), x)
  below = {} if prelude is None else jax.eval_shape(prelude.init, jax.random.key(0), x)
  parameters, below = jax.tree.map(drawn, (shapes, below))

  @jax.jit
  def read(x, mask):
    x = x if prelude is None else prelude.apply(below, x)[0]
    return layer.apply(parameters, x, mask=mask)[0]

  def whole(x, mask=None):
    mask = np.ones(x.shape[:2], bool) if mask is None else mask
    return np.asarray(read(x, mask))

  return layer, parameters, x, whole


def test_dot_product_attention_is_equation_1():
  generator = np.random.default_rng(0)
  query = generator.normal(size=(2, 3, 2, 4)).astype(np.float32)
  key, value = generator.normal(size=(2, 2, 5, 2, 4)).astype(np.float32)
  bias = generator.normal(size=(2, 3, 5)).astype(np.float32)
  for rows in (1, 2):
    visible = generator.random((rows, 3, 5)) < 0.6
    visible[0, 1] = False  # looks nowhere: the plain mean
    for given_bias, added in ((bias, bias), (None, 0 * bias)):
      y = dot_product_attention(query, key, value, visible, given_bias)
      expected = reference_attention(query, key, value, visible, added)
      np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize('name', ['none', *RELATIVE])
def test_a_layer_is_its_equations(name):
  _, parameters, x, read = subject(name)
  mask = np.ones(x.shape[:2], bool)
  mask[0, 2] = mask[1, 4] = mask[1, 5] = False
  expected = reference_layer(name, x, parameters, mask)
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
  query, key = np.random.default_rng(1).normal(size=(2, 1, LENGTH, HEADS, 4)).astype(np.float32)
  index = np.arange(LENGTH)

  def scores(start):
    turned = (np.asarray(Rotary().rotate(a, start + index), np.float64) for a in (query, key))
    return np.einsum('BTHK,BSHK->BHTS', *turned)

  np.testing.assert_allclose(scores(shift), scores(0), atol=3e-3)  # angles in float32
  table = {'params': {'bias': np.arange(HEADS * 32.0).reshape(HEADS, 32)}}
  for bias in (ALiBi().bias, functools.partial(T5Bias().apply, table, method='bias')):
    np.testing.assert_array_equal(
      bias(shift + index, shift + index, HEADS), bias(index, index, HEADS)
    )


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
  x = np.random.default_rng(2).normal(size=(1, LENGTH, HEADS, 4)).astype(np.float32)
  turned = Rotary().rotate(x, np.arange(LENGTH))
  length = np.linalg.norm(x, axis=-1)
  np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), length, atol=1e-5)
  np.testing.assert_array_equal(turned[:, 0], x[:, 0])
  assert np.abs(turned[:, 1:] - x[:, 1:]).max() > 0.1


def test_alibi_slopes_of_eight_heads_are_the_published_ones():
  bias = ALiBi().bias(jnp.array([1]), jnp.array([0]), 8)
  np.testing.assert_array_equal(-bias[:, 0, 0], [1 / 2**i for i in range(1, 9)])


@pytest.mark.parametrize(('num_buckets', 'max_distance'), [(32, 128), (8, 32), (20, 100), (8, 64)])
def test_t5_buckets_are_those_of_exact_arithmetic(num_buckets, max_distance):
  table = {'params': {'bias': jnp.arange(num_buckets, dtype=jnp.float32)[None]}}
  distance = np.arange(-3, 2 * max_distance)
  found = T5Bias(num_buckets, max_distance).apply(
    table, distance, jnp.zeros(1, jnp.int32), 1, method='bias'
  )
  expected = [t5_bucket(int(d), num_buckets, max_distance) for d in distance]
  np.testing.assert_array_equal(found[0, :, 0], expected)


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
  assert layer.initial_state(1, 4, 2 * multiple).key.shape[-1] * 3 == 2 * multiple


def test_attention_without_heads_is_refused():
  with pytest.raises(ValueError, match='0 heads'):
    Attention(0)
