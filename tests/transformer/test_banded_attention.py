"""The banded form of attention: equal to the naive one, of work linear in the length, no loop."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from experiments.lab.measure.work import flops
from tests.support.reference import close
from transformer import platform
from transformer.attention import Attention, SlidingWindow, attend, fastest
from transformer.banded_attention import band, banded
from transformer.dot_product import AttentionMask, naive
from transformer.positions import POSITIONS, Relative

WIDTH = 4


def drawn(*shape):
  return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def judged(inputs, offset, form, window, valid, soft_cap, scale=3, **options):
  """A number that depends on every answer in its own way, and the answers."""
  (query, key, value), relative = inputs
  y = form(query, key, value, AttentionMask(offset, window, valid), relative, soft_cap, **options)
  return jnp.sum(jnp.sin(y.astype(jnp.float32)) * scale * drawn(*query.shape)), y


def both(length, size, window, block=128, shared=1, kinds=(), soft_cap=0.0, valid=None, offset=0,
         dtype=jnp.float32, **options):
  """Gradients and values of the naive and the banded form of the same attention."""
  query, key, value = drawn(2, 2, shared, length, WIDTH), *drawn(2, 2, 2, WIDTH, size)
  tables = {'score': (window, 2 * shared), 'key': (window, WIDTH), 'value': (window, WIDTH)}
  relative = Relative(**{kind: drawn(*tables[kind]) for kind in kinds})
  inputs = jax.tree.map(lambda x: jnp.asarray(x, dtype), (query, key, value)), relative
  known = isinstance(offset, int)

  def run(form, **options):
    def values(inputs, at):
      place = offset if known else at
      return jax.grad(judged, has_aux=True)(inputs, place, form, window, valid, soft_cap, **options)

    return jax.jit(values)(inputs, jnp.int32(offset))

  return run(naive, **options), run(banded, block=block, **options)


@settings(deadline=None, max_examples=4)
@given(
  length=st.integers(1, 11),
  earlier=st.integers(0, 6),
  room=st.integers(-3, 4),
  window=st.integers(1, 5),
  block=st.integers(1, 5),
  shared=st.integers(1, 2),
  kinds=st.sets(st.sampled_from(('score', 'key', 'value'))),
  soft_cap=st.sampled_from((0.0, 1.5)),
  padded=st.booleans(),
  known=st.booleans(),
)
@example(9, 0, 0, 3, 3, 1, set(), 0.0, False, True)
@example(9, 2, 0, 3, 3, 2, {'score', 'key', 'value'}, 1.5, True, True)
@example(11, 6, 4, 5, 2, 1, {'value'}, 0.0, True, False)
@example(11, 1, -3, 4, 4, 1, {'score'}, 0.0, False, False)
def test_the_banded_form_is_the_naive_one_in_value_and_gradient(
  length, earlier, room, window, block, shared, kinds, soft_cap, padded, known
):
  size = max(1, earlier + length + room)
  valid = np.random.default_rng(1).random((2, size)) < 0.7 if padded else None
  offset = earlier if known else jnp.int32(earlier)
  expected, found = both(length, size, window, block, shared, kinds, soft_cap, valid, offset)
  jax.tree.map(close, found, expected)


def test_the_banded_form_in_bfloat16_is_the_naive_one_to_its_precision():
  expected, found = both(9, 11, 3, kinds=('score',), offset=2, dtype=jnp.bfloat16)
  assert found[1].dtype == jnp.bfloat16
  jax.tree.map(lambda a, e: close(a.astype(jnp.float32), np.float32(e), 2.0**-6), found, expected)


def test_a_query_that_may_look_nowhere_answers_0_and_moves_nothing():
  """However much its answer matters: nothing is divided by the sum of no weights."""
  valid = np.arange(9)[None] > np.array([[5], [-1]])
  expected, found = both(9, 9, 3, valid=valid, scale=1e6)
  assert not found[1][0, :, :, :6].any()
  jax.tree.map(close, found, expected)


@pytest.mark.parametrize(
  ('offset', 'window', 'block'), [(0, 3, 3), (2, 3, 3), (5, 5, 2), (40, 4, 4)]
)
def test_a_band_is_a_window_and_a_block_of_keys(offset, window, block):
  keys, count = np.arange(1, 13), 3
  found = band(jnp.array(keys)[None], offset, window, block, count)
  place = offset + block * np.arange(count)[:, None] - window + np.arange(window + block)
  there = (place >= 0) & (place < len(keys))
  np.testing.assert_array_equal(found[:, 0], np.where(there, place + 1, 0))


def shapes(length, heads=2, width=8):
  """Of queries, keys and values."""
  query = jax.ShapeDtypeStruct((1, heads, 1, length, width), jnp.float32)
  key = jax.ShapeDtypeStruct((1, heads, width, length), jnp.float32)
  return query, key, key


def gradient(window, form='banded'):
  """The function of queries, keys and values that training computes."""
  def loss(query, key, value):
    return jnp.sum(jnp.sin(attend(query, key, value, AttentionMask(0, window), form=form)))

  return jax.grad(loss, (0, 1, 2))


@pytest.mark.parametrize(('window', 'block'), [(4, 4), (16, 16), (256, 128)])
def test_the_work_is_that_of_the_tokens_in_sight_for_each_of_n(window, block):
  """Two products of n queries with w + C keys; their gradients are four."""
  for length in (1024, 2048):
    product = 2 * 2 * 8 * length * (window + block)  # in 2 heads of 8 channels
    forward = flops(lambda *a: attend(*a, AttentionMask(0, window), form='banded'), *shapes(length))
    assert forward == 2 * product
    assert flops(gradient(window), *shapes(length)) == 6 * product


def program(length, window, form='banded'):
  """The names of the primitives that training computes, those inside of others among them."""
  return re.findall(r' = (\w+)', str(jax.make_jaxpr(gradient(window, form))(*shapes(length))))


def test_nothing_is_done_in_a_loop_and_the_program_is_the_same_for_any_length():
  assert not {'scan', 'while'} & set(program(128, 16))
  assert program(128, 16) == program(4096, 16)
  assert 'scan' in program(128, 16, 'blocked')


def test_the_memory_of_the_banded_form_grows_with_the_length_and_not_its_square():
  def temporaries(length):
    compiled = jax.jit(gradient(16)).lower(*shapes(length)).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporaries(8192) < 4.5 * temporaries(2048)


@pytest.mark.parametrize(
  ('backend', 'length', 'window', 'form'),
  [
    ('cpu', 63, 4, 'naive'),
    ('cpu', 64, 16, 'banded'),
    ('cpu', 64, 17, 'blocked'),
    ('cpu', 4096, 64, 'banded'),
    ('cpu', 4096, 65, 'blocked'),
    ('cpu', 4096, 0, 'blocked'),
    ('gpu', 63, 4, 'naive'),
    ('gpu', 64, 16, 'banded'),
    ('gpu', 512, 129, 'naive'),
    ('tpu', 4096, 1024, 'banded'),
    ('tpu', 8192, 1025, 'blocked'),
    ('tpu', 1024, 0, 'blocked'),
  ],
)
def test_bands_are_taken_where_the_window_is_short_and_the_text_is_long(
  backend, length, window, form
):
  with platform.assumed(backend):
    assert fastest(length, window) == form


def test_the_fastest_form_is_the_one_that_is_computed():
  with platform.assumed('cpu'):
    for length, window, form in ((256, 16, 'banded'), (256, 0, 'blocked'), (63, 16, 'naive')):
      assert program(length, window, 'auto') == program(length, window, form)


def test_attention_without_a_window_has_no_bands():
  layer = Attention(form='banded')
  with pytest.raises(ValueError, match='no banded attention here: it needs a window'):
    layer.init(jax.random.key(0), jnp.zeros((1, 4, 8)))


@pytest.mark.parametrize('name', ['rotary', 'shaw'])
def test_a_layer_in_bands_is_the_same_layer_and_goes_on_in_pieces(name):
  options = {'window': 3, 'num_key_value_heads': 2, 'positions': POSITIONS[name]()}
  x, mask = drawn(2, 17, 16), np.random.default_rng(0).random((2, 17)) < 0.8
  layer, plain = SlidingWindow(form='banded', **options), SlidingWindow(form='naive', **options)
  parameters = jax.jit(plain.init)(jax.random.key(0), x)
  expected, _ = jax.jit(plain.apply)(parameters, x, mask=mask)
  first, state = jax.jit(layer.apply)(parameters, x[:, :7], mask=mask[:, :7])
  second, _ = jax.jit(layer.apply)(parameters, x[:, 7:], state, mask=mask[:, 7:])
  close(jnp.concatenate([first, second], 1), np.asarray(expected))
