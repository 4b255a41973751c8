"""Banded attention equals dense attention, with linear operations and memory and without a loop."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from experiments.lab.measure.work import flops
from tests.support.reference import assert_close
from transformer import platform
from transformer.attention import Attention, SlidingWindow, attend, fastest_attention_algorithm
from transformer.banded_attention import banded_attention, gather_bands
from transformer.dot_product import AttentionMask, dense_attention
from transformer.positions import POSITIONS, RelativePositionTerms

WIDTH = 4


def normal_array(*shape):
  return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def weighted_output_sum(inputs, offset, compute, window, valid, soft_cap, scale=3, **options):
  """A scalar that depends on every output with a different weight, and the outputs."""
  (query, key, value), relative = inputs
  attention_mask = AttentionMask(offset, window, valid)
  y = compute(query, key, value, attention_mask, relative, soft_cap, **options)
  return jnp.sum(jnp.sin(y.astype(jnp.float32)) * scale * normal_array(*query.shape)), y


def dense_and_banded_gradients(length, size, window, block_size=128, shared=1, kinds=(),
                               soft_cap=0.0, valid=None, offset=0, dtype=jnp.float32, **options):
  """Gradients and outputs of dense attention and of banded attention for the same random inputs."""
  query = normal_array(2, 2, shared, length, WIDTH)
  key, value = normal_array(2, 2, 2, WIDTH, size)
  tables = {'score': (window, 2 * shared), 'key': (window, WIDTH), 'value': (window, WIDTH)}
  relative = RelativePositionTerms(**{kind: normal_array(*tables[kind]) for kind in kinds})
  inputs = jax.tree.map(lambda x: jnp.asarray(x, dtype), (query, key, value)), relative
  static_offset = isinstance(offset, int)

  def gradients_and_output(compute, **options):
    def differentiate(inputs, traced_offset):
      return jax.grad(weighted_output_sum, has_aux=True)(
        inputs, offset if static_offset else traced_offset, compute, window, valid, soft_cap,
        **options)

    return jax.jit(differentiate)(inputs, jnp.int32(offset))

  dense = gradients_and_output(dense_attention, **options)
  return dense, gradients_and_output(banded_attention, block_size=block_size, **options)


@settings(deadline=None, max_examples=4)
@given(
  length=st.integers(1, 11),
  num_earlier=st.integers(0, 6),
  num_unused=st.integers(-3, 4),
  window=st.integers(1, 5),
  block_size=st.integers(1, 5),
  shared=st.integers(1, 2),
  kinds=st.sets(st.sampled_from(('score', 'key', 'value'))),
  soft_cap=st.sampled_from((0.0, 1.5)),
  padded=st.booleans(),
  static_offset=st.booleans(),
)
@example(9, 0, 0, 3, 3, 1, set(), 0.0, False, True)
@example(9, 2, 0, 3, 3, 2, {'score', 'key', 'value'}, 1.5, True, True)
@example(11, 6, 4, 5, 2, 1, {'value'}, 0.0, True, False)
@example(11, 1, -3, 4, 4, 1, {'score'}, 0.0, False, False)
def test_banded_and_dense_attention_have_equal_values_and_gradients(
  length, num_earlier, num_unused, window, block_size, shared, kinds, soft_cap, padded,
  static_offset,
):
  size = max(1, num_earlier + length + num_unused)
  valid = np.random.default_rng(1).random((2, size)) < 0.7 if padded else None
  offset = num_earlier if static_offset else jnp.int32(num_earlier)
  expected, actual = dense_and_banded_gradients(
    length, size, window, block_size, shared, kinds, soft_cap, valid, offset)
  jax.tree.map(assert_close, actual, expected)


def test_banded_attention_in_bfloat16_matches_dense_attention():
  expected, actual = dense_and_banded_gradients(
    9, 11, 3, kinds=('score',), offset=2, dtype=jnp.bfloat16)
  assert actual[1].dtype == jnp.bfloat16
  jax.tree.map(
    lambda a, e: assert_close(a.astype(jnp.float32), np.float32(e), 2.0**-6), actual, expected)


def test_a_fully_masked_query_has_output_0_and_no_gradient():
  """The outputs have a large weight in the loss, which would reveal a division by a sum of 0."""
  valid = np.arange(9)[None] > np.array([[5], [-1]])
  expected, actual = dense_and_banded_gradients(9, 9, 3, valid=valid, scale=1e6)
  assert not actual[1][0, :, :, :6].any()
  jax.tree.map(assert_close, actual, expected)


@pytest.mark.parametrize(
  ('offset', 'window', 'block_size'), [(0, 3, 3), (2, 3, 3), (5, 5, 2), (40, 4, 4)]
)
def test_a_band_contains_the_keys_of_a_block_and_its_window(offset, window, block_size):
  keys, count = np.arange(1, 13), 3
  bands = gather_bands(jnp.array(keys)[None], offset, window, block_size, count)
  index = offset + block_size * np.arange(count)[:, None] - window + np.arange(window + block_size)
  exists = (index >= 0) & (index < len(keys))
  np.testing.assert_array_equal(bands[:, 0], np.where(exists, index + 1, 0))


def input_shapes(length, heads=2, width=8):
  """Shapes of queries, keys and values of a sequence."""
  query = jax.ShapeDtypeStruct((1, heads, 1, length, width), jnp.float32)
  key = jax.ShapeDtypeStruct((1, heads, width, length), jnp.float32)
  return query, key, key


def gradient_function(window, form='banded'):
  """The gradient of a loss with respect to queries, keys and values, as in training."""
  def loss(query, key, value):
    return jnp.sum(jnp.sin(attend(query, key, value, AttentionMask(0, window), form=form)))

  return jax.grad(loss, (0, 1, 2))


@pytest.mark.parametrize(('window', 'block_size'), [(4, 4), (16, 16), (256, 128)])
def test_banded_operations_are_linear_in_the_length(window, block_size):
  """There are two products of n queries with w + C keys, and their gradients are four products."""
  for length in (1024, 2048):
    product = 2 * 2 * 8 * length * (window + block_size)  # in 2 heads of 8 channels
    forward = flops(
      lambda *a: attend(*a, AttentionMask(0, window), form='banded'), *input_shapes(length))
    assert forward == 2 * product
    assert flops(gradient_function(window), *input_shapes(length)) == 6 * product


def primitive_names(length, window, form='banded'):
  """Names of all primitives in the gradient function, those of nested jaxprs included."""
  jaxpr = jax.make_jaxpr(gradient_function(window, form))(*input_shapes(length))
  return re.findall(r' = (\w+)', str(jaxpr))


def test_banded_attention_compiles_without_loops_for_any_length():
  assert not {'scan', 'while'} & set(primitive_names(128, 16))
  assert primitive_names(128, 16) == primitive_names(4096, 16)
  assert 'scan' in primitive_names(128, 16, 'blocked')


def test_banded_memory_is_linear_in_the_length():
  def temporary_bytes(length):
    compiled = jax.jit(gradient_function(16)).lower(*input_shapes(length)).compile()
    return compiled.memory_analysis().temp_size_in_bytes

  assert temporary_bytes(8192) < 4.5 * temporary_bytes(2048)


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
def test_banded_form_is_fastest_for_short_windows_and_long_sequences(
  backend, length, window, form
):
  with platform.override_platform(backend):
    assert fastest_attention_algorithm(length, window) == form


def test_form_auto_computes_the_fastest_form():
  with platform.override_platform('cpu'):
    for length, window, form in ((256, 16, 'banded'), (256, 0, 'blocked'), (63, 16, 'naive')):
      assert primitive_names(length, window, 'auto') == primitive_names(length, window, form)


def test_banded_form_without_a_window_raises_an_error():
  layer = Attention(form='banded')
  with pytest.raises(ValueError, match='banded attention requires a causal mask with a window'):
    layer.init(jax.random.key(0), jnp.zeros((1, 4, 8)))


@pytest.mark.parametrize('name', ['rotary', 'shaw'])
def test_a_banded_layer_matches_the_dense_layer_in_chunks(name):
  options = {'window': 3, 'num_key_value_heads': 2, 'positions': POSITIONS[name]()}
  x, mask = normal_array(2, 17, 16), np.random.default_rng(0).random((2, 17)) < 0.8
  layer, dense = SlidingWindow(form='banded', **options), SlidingWindow(form='naive', **options)
  parameters = jax.jit(dense.init)(jax.random.key(0), x)
  expected, _ = jax.jit(dense.apply)(parameters, x, mask=mask)
  first, state = jax.jit(layer.apply)(parameters, x[:, :7], mask=mask[:, :7])
  second, _ = jax.jit(layer.apply)(parameters, x[:, 7:], state, mask=mask[:, 7:])
  assert_close(jnp.concatenate([first, second], 1), np.asarray(expected))
