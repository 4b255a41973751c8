"""Blocked attention equals dense attention, and each platform uses its fastest form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.reference import assert_close
from transformer import attention, fused_attention
from transformer.attention import Attention, attend
from transformer.blocked_attention import blocked_attention, visible_block_pairs
from transformer.dot_product import (
  AttentionMask,
  dense_attention,
  reindex_scores_by_key,
  reindex_weights_by_distance,
)
from transformer.positions import RelativePositionTerms

WIDTH = 4


def normal_array(*shape):
  return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def dense_and_blocked_gradients(length, size, shared, kinds, soft_cap, window, valid, offset,
                                dtype=jnp.float32, block_size=3):
  """Gradients and outputs of dense and of blocked attention for the same random inputs."""
  query = normal_array(2, 2, shared, length, WIDTH)
  key, value = normal_array(2, 2, 2, WIDTH, size)
  tables = {'score': (size, 2 * shared), 'key': (size, WIDTH), 'value': (size, WIDTH)}
  relative = RelativePositionTerms(**{kind: normal_array(*tables[kind]) for kind in kinds})
  inputs = jax.tree.map(lambda x: jnp.asarray(x, dtype), (query, key, value)), relative
  weight = normal_array(*query.shape) * 3

  def weighted_output_sum(inputs, offset, compute, **options):
    (query, key, value), relative = inputs
    attention_mask = AttentionMask(offset, window, valid)
    y = compute(query, key, value, attention_mask, relative, soft_cap, **options)
    return jnp.sum(jnp.sin(y.astype(jnp.float32)) * weight), y

  def gradients_and_output(compute, offset, **options):
    def differentiate(inputs, offset):
      return jax.grad(weighted_output_sum, has_aux=True)(inputs, offset, compute, **options)

    if isinstance(offset, int):
      return jax.jit(lambda inputs: differentiate(inputs, offset))(inputs)
    return jax.jit(differentiate)(inputs, offset)

  dense = gradients_and_output(dense_attention, offset)
  return dense, gradients_and_output(blocked_attention, offset, block_size=block_size)


@settings(deadline=None, max_examples=4)
@given(
  length=st.integers(1, 8),
  num_earlier=st.integers(0, 5),
  num_unused=st.integers(0, 3),
  shared=st.integers(1, 2),
  kinds=st.sets(st.sampled_from(('score', 'key', 'value'))),
  soft_cap=st.sampled_from((0.0, 1.5)),
  window=st.integers(0, 5),
  padded=st.booleans(),
  static_offset=st.booleans(),
)
@example(8, 0, 0, 1, set(), 0.0, 0, False, True)
@example(7, 5, 3, 2, {'score', 'key', 'value'}, 1.5, 4, True, True)
@example(5, 4, 3, 2, {'score'}, 0.0, 0, True, False)
def test_blocked_and_dense_attention_have_equal_values_and_gradients(
  length, num_earlier, num_unused, shared, kinds, soft_cap, window, padded, static_offset
):
  size = num_earlier + length + num_unused
  valid = np.random.default_rng(1).random((2, size)) < 0.7 if padded else None
  offset = num_earlier if static_offset else jnp.int32(num_earlier)
  expected, actual = dense_and_blocked_gradients(
    length, size, shared, kinds, soft_cap, window, valid, offset)
  jax.tree.map(assert_close, actual, expected)


def test_blocked_attention_in_bfloat16_matches_dense_attention():
  actual, expected = dense_and_blocked_gradients(
    7, 9, 2, ('score',), 0.0, 0, None, 2, jnp.bfloat16)
  jax.tree.map(
    lambda a, e: assert_close(a.astype(jnp.float32), np.float32(e), 2.0**-6), actual, expected)


@pytest.mark.parametrize('window', [0, 3])
def test_relative_to_absolute_and_its_transpose_match_index_arithmetic(window):
  length, size = 3 + window, 5
  rows = normal_array(2, length, length + size)
  absolute = reindex_scores_by_key(rows, size)
  relative = reindex_weights_by_distance(normal_array(2, length, size))
  for t, s in np.ndindex(length, size):
    np.testing.assert_array_equal(absolute[:, t, s], rows[:, t, length - 1 - t + s])
    np.testing.assert_array_equal(
      relative[:, t, length - 1 - t + s], normal_array(2, length, size)[:, t, s]
    )


@pytest.mark.parametrize(('offset', 'window'), [(0, 0), (0, 5), (3, 0), (7, 4), (3, 1)])
def test_visible_block_pairs_contain_every_unmasked_score(offset, window):
  block_size, queries, keys = 3, 4, 6
  distance = offset + np.arange(block_size * queries)[:, None] - np.arange(block_size * keys)
  visible = (distance >= 0) & (distance < (window or distance.max() + 1))
  expected = visible.reshape(queries, block_size, keys, block_size).any((1, 3))
  actual = set(visible_block_pairs(queries, keys, block_size, offset, window))
  assert actual == set(zip(*map(np.ndarray.tolist, np.nonzero(expected)), strict=True))
  all_pairs = list(visible_block_pairs(queries, keys, block_size, jnp.int32(offset), window))
  assert len(all_pairs) == queries * keys


def test_blocked_memory_is_linear_in_the_length():
  def temporary_bytes(length):
    query = jax.ShapeDtypeStruct((1, 4, 1, length, 32), jnp.float32)
    key = jax.ShapeDtypeStruct((1, 4, 32, length), jnp.float32)

    def loss(query, key, value):
      y = blocked_attention(query, key, value, AttentionMask(), RelativePositionTerms())
      return jnp.sum(jnp.sin(y))

    compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(query, key, key).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  short, long = temporary_bytes(2048), temporary_bytes(8192)
  assert long < 4.5 * short
  assert long < 100e6, 'one matrix of scores alone is 1 GB'


FUNCTIONS = {
  'dense_attention': 'naive', 'blocked_attention': 'blocked', 'banded_attention': 'banded',
  'fused_attention': 'fused',
}


@pytest.fixture
def record_forms_on_platform(monkeypatch):
  """Replaces the platform and all forms of attention, and records which form is called."""
  called = []

  def recorder(form):
    return lambda query, *_: called.append(form) or query

  def set_platform(backend):
    monkeypatch.setattr(jax, 'default_backend', lambda: backend)
    for function, form in FUNCTIONS.items():
      monkeypatch.setattr(attention, function, recorder(form))
    return called

  return set_platform


def sequence_inputs(length, width=64, dtype=jnp.bfloat16, shared=1):
  """Queries, keys and values of a complete sequence."""
  key = jnp.zeros((1, 2, width, length), dtype)
  return jnp.zeros((1, 2, shared, length, width), dtype), key, key


SCORE = RelativePositionTerms(score=jnp.zeros((128, 2)))


@pytest.mark.parametrize(
  ('backend', 'inputs', 'attention_mask', 'options', 'form'),
  [
    ('cpu', sequence_inputs(63), AttentionMask(), {}, 'naive'),
    ('cpu', sequence_inputs(64), AttentionMask(), {}, 'blocked'),
    ('gpu', sequence_inputs(128), AttentionMask(), {}, 'fused'),
    ('gpu', sequence_inputs(128), AttentionMask(0, 16), {}, 'fused'),
    ('gpu', sequence_inputs(128, shared=2), AttentionMask(), {}, 'fused'),
    ('gpu', sequence_inputs(128, dtype=jnp.float32), AttentionMask(), {}, 'naive'),
    ('gpu', sequence_inputs(1024, dtype=jnp.float32), AttentionMask(), {}, 'blocked'),
    ('gpu', sequence_inputs(128, width=12), AttentionMask(), {}, 'naive'),
    ('gpu', sequence_inputs(128), AttentionMask(3), {}, 'naive'),
    ('gpu', sequence_inputs(128), AttentionMask(jnp.int32(0)), {}, 'naive'),
    ('gpu', sequence_inputs(128), AttentionMask(valid=jnp.ones((1, 128), bool)), {}, 'naive'),
    ('gpu', sequence_inputs(128), AttentionMask(), {'soft_cap': 1.0}, 'naive'),
    ('gpu', sequence_inputs(128), AttentionMask(), {'relative_position_terms': SCORE}, 'naive'),
    ('tpu', sequence_inputs(256, dtype=jnp.float32), AttentionMask(), {}, 'fused'),
    ('tpu', sequence_inputs(200), AttentionMask(), {}, 'naive'),
    ('tpu', sequence_inputs(256, shared=2), AttentionMask(), {}, 'naive'),
    ('tpu', sequence_inputs(1024), AttentionMask(0, 16), {}, 'banded'),
    ('metal', sequence_inputs(128), AttentionMask(), {}, 'naive'),
  ],
)
def test_each_platform_uses_its_fastest_form(
  record_forms_on_platform, backend, inputs, attention_mask, options, form
):
  called = record_forms_on_platform(backend)
  attend(*inputs, attention_mask, **options)
  assert called == [form]
  if form == 'fused':
    attend(*inputs, attention_mask, **options, form='fused')
    assert called == ['fused', 'fused']
  else:
    with pytest.raises(ValueError, match='fused attention is not supported for these inputs: '):
      attend(*inputs, attention_mask, **options, form='fused')
  attend(*inputs, attention_mask, **options, form='naive')
  attend(*inputs, attention_mask, **options, form='blocked')
  assert called[-2:] == ['naive', 'blocked']


@pytest.mark.parametrize('window', [0, 3])
def test_the_cudnn_call_matches_dense_attention(monkeypatch, window):
  """The call is made without the cuDNN kernel, which needs a GPU."""
  original = jax.nn.dot_product_attention
  monkeypatch.setattr(
    jax.nn, 'dot_product_attention', lambda *a, implementation, **options: original(*a, **options)
  )
  query = normal_array(2, 2, 2, 7, WIDTH)
  key, value = normal_array(2, 2, 2, WIDTH, 7)
  attention_mask = AttentionMask(0, window)
  expected = dense_attention(query, key, value, attention_mask, RelativePositionTerms())
  assert_close(fused_attention.fused_attention(query, key, value, attention_mask), expected)


@pytest.mark.parametrize('form', ['naive', 'blocked'])
def test_all_forms_of_a_layer_have_equal_outputs(form):
  options = {'num_key_value_heads': 2, 'window': 40, 'soft_cap': 3.0}
  x = normal_array(2, 150, 16)
  layer = Attention(**options)  # 150 tokens: two blocks
  parameters = jax.jit(layer.init)(jax.random.key(0), x)
  expected, _ = jax.jit(layer.apply)(parameters, x)
  y, _ = jax.jit(Attention(**options, form=form).apply)(parameters, x)
  assert_close(y, np.asarray(expected))
