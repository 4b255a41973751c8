"""The forms of attention: equal in value and gradient, each chosen where it belongs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.reference import close
from transformer import attention, fused_attention
from transformer.attention import Attention, attend
from transformer.blocked_attention import blocked, meeting
from transformer.dot_product import AttentionMask, across, along, naive
from transformer.positions import Relative

WIDTH = 4


def drawn(*shape):
  return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def both(length, size, shared, kinds, soft_cap, window, valid, offset, dtype=jnp.float32, block=3):
  """Values and gradients of the naive and the blocked form of the same attention."""
  query, key, value = drawn(2, 2, shared, length, WIDTH), *drawn(2, 2, 2, WIDTH, size)
  tables = {'score': (size, 2 * shared), 'key': (size, WIDTH), 'value': (size, WIDTH)}
  relative = Relative(**{kind: drawn(*tables[kind]) for kind in kinds})
  inputs = jax.tree.map(lambda x: jnp.asarray(x, dtype), (query, key, value)), relative
  weight = drawn(*query.shape) * 3

  def judged(inputs, offset, compute, **options):
    (query, key, value), relative = inputs
    attention_mask = AttentionMask(offset, window, valid)
    y = compute(query, key, value, attention_mask, relative, soft_cap, **options)
    return jnp.sum(jnp.sin(y.astype(jnp.float32)) * weight), y

  def run(compute, offset, **options):
    def values(inputs, offset):
      return jax.grad(judged, has_aux=True)(inputs, offset, compute, **options)

    if isinstance(offset, int):
      return jax.jit(lambda inputs: values(inputs, offset))(inputs)
    return jax.jit(values)(inputs, offset)

  return run(naive, offset), run(blocked, offset, block=block)


@settings(deadline=None, max_examples=4)
@given(
  length=st.integers(1, 8),
  earlier=st.integers(0, 5),
  room=st.integers(0, 3),
  shared=st.integers(1, 2),
  kinds=st.sets(st.sampled_from(('score', 'key', 'value'))),
  soft_cap=st.sampled_from((0.0, 1.5)),
  window=st.integers(0, 5),
  padded=st.booleans(),
  known=st.booleans(),
)
@example(8, 0, 0, 1, set(), 0.0, 0, False, True)
@example(7, 5, 3, 2, {'score', 'key', 'value'}, 1.5, 4, True, True)
@example(5, 4, 3, 2, {'score'}, 0.0, 0, True, False)
def test_the_blocked_form_is_the_naive_one_in_value_and_gradient(
  length, earlier, room, shared, kinds, soft_cap, window, padded, known
):
  size = earlier + length + room
  valid = np.random.default_rng(1).random((2, size)) < 0.7 if padded else None
  offset = earlier if known else jnp.int32(earlier)
  expected, found = both(length, size, shared, kinds, soft_cap, window, valid, offset)
  jax.tree.map(close, found, expected)


def test_the_blocked_form_in_bfloat16_is_the_naive_one_to_its_precision():
  found, expected = both(7, 9, 2, ('score',), 0.0, 0, None, 2, jnp.bfloat16)
  jax.tree.map(lambda a, e: close(a.astype(jnp.float32), np.float32(e), 2.0**-6), found, expected)


@pytest.mark.parametrize('window', [0, 3])
def test_across_takes_distances_to_keys_and_along_takes_them_back(window):
  length, size = 3 + window, 5
  rows = drawn(2, length, length + size)
  found, back = across(rows, size), along(drawn(2, length, size))
  for t, s in np.ndindex(length, size):
    np.testing.assert_array_equal(found[:, t, s], rows[:, t, length - 1 - t + s])
    np.testing.assert_array_equal(
      back[:, t, length - 1 - t + s], drawn(2, length, size)[:, t, s]
    )


@pytest.mark.parametrize(('offset', 'window'), [(0, 0), (0, 5), (3, 0), (7, 4), (3, 1)])
def test_the_pairs_that_meet_are_those_with_a_key_in_sight_of_a_query(offset, window):
  block, queries, keys = 3, 4, 6
  distance = offset + np.arange(block * queries)[:, None] - np.arange(block * keys)
  seen = (distance >= 0) & (distance < (window or distance.max() + 1))
  expected = seen.reshape(queries, block, keys, block).any((1, 3))
  found = set(meeting(queries, keys, block, offset, window))
  assert found == set(zip(*map(np.ndarray.tolist, np.nonzero(expected)), strict=True))
  assert len(list(meeting(queries, keys, block, jnp.int32(offset), window))) == queries * keys


def test_the_memory_of_the_blocked_form_grows_with_the_length_and_not_its_square():
  def temporaries(length):
    query = jax.ShapeDtypeStruct((1, 4, 1, length, 32), jnp.float32)
    key = jax.ShapeDtypeStruct((1, 4, 32, length), jnp.float32)

    def loss(query, key, value):
      return jnp.sum(jnp.sin(blocked(query, key, value, AttentionMask(), Relative())))

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(query, key, key).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  short, long = temporaries(2048), temporaries(8192)
  assert long < 4.5 * short
  assert long < 100e6, 'one matrix of scores alone is 1 GB'


@pytest.fixture
def on(monkeypatch):
  """Makes attention believe in another platform; the forms that it takes are noted."""
  taken = []

  def note(form):
    return lambda query, *_: taken.append(form) or query

  def believe(backend):
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)
    for form in ('naive', 'blocked', 'banded', 'fused'):
      monkeypatch.setattr(attention, form, note(form))
    return taken

  return believe


def whole(length, width=64, dtype=jnp.bfloat16, shared=1):
  """Queries, keys and values of a whole sequence."""
  key = jnp.zeros((1, 2, width, length), dtype)
  return jnp.zeros((1, 2, shared, length, width), dtype), key, key


SCORE = Relative(score=jnp.zeros((128, 2)))


@pytest.mark.parametrize(
  ('backend', 'inputs', 'visible', 'options', 'form'),
  [
    ('cpu', whole(63), AttentionMask(), {}, 'naive'),
    ('cpu', whole(64), AttentionMask(), {}, 'blocked'),
    ('gpu', whole(128), AttentionMask(), {}, 'fused'),
    ('gpu', whole(128), AttentionMask(0, 16), {}, 'fused'),
    ('gpu', whole(128, shared=2), AttentionMask(), {}, 'fused'),
    ('gpu', whole(128, dtype=jnp.float32), AttentionMask(), {}, 'naive'),
    ('gpu', whole(1024, dtype=jnp.float32), AttentionMask(), {}, 'blocked'),
    ('gpu', whole(128, width=12), AttentionMask(), {}, 'naive'),
    ('gpu', whole(128), AttentionMask(3), {}, 'naive'),
    ('gpu', whole(128), AttentionMask(jnp.int32(0)), {}, 'naive'),
    ('gpu', whole(128), AttentionMask(valid=jnp.ones((1, 128), bool)), {}, 'naive'),
    ('gpu', whole(128), AttentionMask(), {'soft_cap': 1.0}, 'naive'),
    ('gpu', whole(128), AttentionMask(), {'relative': SCORE}, 'naive'),
    ('tpu', whole(256, dtype=jnp.float32), AttentionMask(), {}, 'fused'),
    ('tpu', whole(200), AttentionMask(), {}, 'naive'),
    ('tpu', whole(256, shared=2), AttentionMask(), {}, 'naive'),
    ('tpu', whole(1024), AttentionMask(0, 16), {}, 'banded'),
    ('metal', whole(128), AttentionMask(), {}, 'naive'),
  ],
)
def test_each_platform_takes_the_form_that_suits_it(on, backend, inputs, visible, options, form):
  taken = on(backend)
  attend(*inputs, visible, **options)
  assert taken == [form]
  if form == 'fused':
    attend(*inputs, visible, **options, form='fused')
    assert taken == ['fused', 'fused']
  else:
    with pytest.raises(ValueError, match='no fused attention here: '):
      attend(*inputs, visible, **options, form='fused')
  attend(*inputs, visible, **options, form='naive')
  attend(*inputs, visible, **options, form='blocked')
  assert taken[-2:] == ['naive', 'blocked']


@pytest.mark.parametrize('window', [0, 3])
def test_what_cudnn_is_asked_is_the_same_attention(monkeypatch, window):
  """The same call without its kernel, which needs a GPU."""
  plain = jax.nn.dot_product_attention
  monkeypatch.setattr(
    jax.nn, 'dot_product_attention', lambda *a, implementation, **options: plain(*a, **options)
  )
  query, key, value = drawn(2, 2, 2, 7, WIDTH), *drawn(2, 2, 2, WIDTH, 7)
  expected = naive(query, key, value, AttentionMask(0, window), Relative())
  close(fused_attention.fused(query, key, value, AttentionMask(0, window)), expected)


@pytest.mark.parametrize('form', ['naive', 'blocked'])
def test_a_layer_in_one_form_is_the_same_layer_in_another(form):
  options = {'num_key_value_heads': 2, 'window': 40, 'soft_cap': 3.0}
  x = drawn(2, 150, 16)
  layer = Attention(**options)  # 150 tokens: two blocks
  parameters = jax.jit(layer.init)(jax.random.key(0), x)
  expected, _ = jax.jit(layer.apply)(parameters, x)
  found, _ = jax.jit(Attention(**options, form=form).apply)(parameters, x)
  close(found, np.asarray(expected))
