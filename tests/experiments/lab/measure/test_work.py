"""Counted work equals formulas derived by hand, for programs of every kind and for layers."""

import math

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.convolution import TCN, Convolution
from baselines.linear_recurrence import LRU, MinGRU
from baselines.recurrent import GRU, LSTM, Elman
from experiments.complexity import layer_counts
from experiments.lab.measure.work import count_operations_and_bytes, flops
from transformer.attention import Attention, SlidingWindow
from transformer.feedforward import FeedForward


def test_products_are_counted_once_per_iteration_of_a_loop():
  x, w = jnp.ones((3, 4)), jnp.ones((4, 5))
  assert flops(jnp.dot, x, w) == 2 * 3 * 4 * 5
  assert flops(jax.grad(lambda w: jnp.sum(jnp.tanh(x @ w))), w) == 2 * (2 * 3 * 4 * 5)
  square = jnp.ones((4, 4))

  def loop(x):
    return jax.lax.scan(lambda carry, _: (jnp.tanh(carry @ square), None), x, None, length=7)[0]

  assert flops(jax.jit(loop), x) == 7 * 2 * 3 * 4 * 4
  assert flops(jax.vmap(loop), jnp.ones((2, 3, 4))) == 2 * 7 * 2 * 3 * 4 * 4
  branches = lambda x: jax.lax.cond(x[0, 0] > 0, lambda x: x @ square, jnp.tanh, x)  # noqa: E731
  assert flops(branches, x) == 2 * 3 * 4 * 4
  batched = lambda a, b: jnp.einsum('BHTK,BHSK->BHTS', a, b)  # noqa: E731
  assert flops(batched, jnp.ones((2, 3, 5, 4)), jnp.ones((2, 3, 6, 4))) == 2 * 6 * 5 * 6 * 4


@pytest.mark.parametrize('groups', [1, 2])
def test_a_convolution_counts_two_operations_per_product_of_weight_and_input(groups):
  x, kernel = jnp.ones((2, 9, 4)), jnp.ones((3, 4 // groups, 6))
  convolve = lambda x, kernel: jax.lax.conv_general_dilated(  # noqa: E731
    x, kernel, (1,), 'VALID', dimension_numbers=('NTC', 'TIO', 'NTC'), feature_group_count=groups)
  assert flops(convolve, x, kernel) == 2 * (2 * 7 * 6) * 3 * (4 // groups)


def test_a_loop_with_an_unknown_number_of_iterations_is_refused():
  square = jnp.ones((4, 4))
  endless = lambda x: jax.lax.while_loop(lambda x: x[0, 0] < 9, lambda x: x @ square, x)  # noqa: E731
  with pytest.raises(ValueError, match='while'):
    flops(endless, square)


def test_other_arithmetic_counts_one_per_element_and_movement_counts_none():
  x = jnp.ones((3, 4))
  assert count_operations_and_bytes(lambda x: jnp.tanh(x.T) + 1, x)[:2] == (0, 24)
  assert count_operations_and_bytes(lambda x: x.sum(), x)[:2] == (0, 12)
  assert count_operations_and_bytes(lambda x: jax.lax.cumsum(x), x)[:2] == (0, 12)
  moved = lambda x: jax.lax.slice(x.reshape(2, 6), (0, 0), (2, 6), (1, 2))  # noqa: E731
  assert count_operations_and_bytes(lambda x: moved(x).astype(jnp.int32), x)[:2] == (0, 0)
  assert count_operations_and_bytes(lambda x: x.at[0].add(x[1]), x).elementwise == 4
  assert count_operations_and_bytes(lambda x: jax.lax.sort(x, dimension=1), x)[:2] == (0, 12 * 2)
  z = jnp.ones((3, 8), jnp.complex64)
  assert count_operations_and_bytes(lambda z: jnp.fft.fft(z), z).elementwise == 3 * 120


def test_bytes_are_those_that_every_equation_reads_and_writes():
  x = jnp.ones((3, 4))
  assert count_operations_and_bytes(lambda x: jnp.tanh(jnp.exp(x)), x).bytes == 2 * 2 * 12 * 4
  y = jnp.ones((4, 5), jnp.float32)
  assert count_operations_and_bytes(jnp.dot, x, y).bytes == (12 + 20 + 15) * 4
  assert count_operations_and_bytes(lambda x: x.astype(jnp.bfloat16), x).bytes == 12 * (4 + 2)


BY_HAND = {  # operations in products for n tokens at width d
  Attention(2, form='naive'): lambda n, d: 4 * 2 * n * d**2 + 2 * 2 * n**2 * d,
  Attention(4, num_key_value_heads=2, form='naive'):
    lambda n, d: (2 + 2 * 2 / 4) * 2 * n * d**2 + 4 * n**2 * d,
  # Each block of w queries is multiplied with a band of 2 w keys.
  SlidingWindow(2, window=4, form='banded'):
    lambda n, d: 8 * n * d**2 + 2 * 2 * math.ceil(n / 4) * 4 * 8 * d,
  Elman(): lambda n, d: 2 * 2 * n * d**2,
  LSTM(): lambda n, d: 2 * 4 * 2 * n * d**2,
  GRU(): lambda n, d: 2 * 3 * 2 * n * d**2,
  MinGRU(): lambda n, d: 2 * 2 * n * d**2,
  Convolution(3): lambda n, d: 2 * 3 * n * d**2,
  Convolution(5, dilation=2): lambda n, d: 2 * 5 * n * d**2,
  TCN(3, levels=2): lambda n, d: 2 * 2 * 2 * 3 * n * d**2,
  FeedForward('relu', 4.0): lambda n, d: 2 * 2 * n * d * 4 * d,
}


@pytest.mark.parametrize('layer', BY_HAND, ids=str)
@settings(deadline=None, max_examples=5)
@given(st.integers(5, 40), st.integers(1, 5))
def test_the_work_of_a_layer_equals_its_formula(layer, length, width):
  width *= 8
  forward = layer_counts.count_layer_operations(layer, 'forward', length, width)
  assert forward['products'] == BY_HAND[layer](length, width)
  generate = layer_counts.count_layer_operations(layer, 'generate', length, width)
  if layer.receptive_field is None and not isinstance(layer, Attention):
    assert generate['products'] == BY_HAND[layer](1, width)  # a state of fixed size


@pytest.mark.parametrize('layer', [Attention(2, form='naive'), LSTM(), MinGRU(), LRU(2)], ids=str)
def test_the_gradient_for_parameters_and_inputs_triples_the_products(layer):
  forward, train = (layer_counts.count_layer_operations(layer, phase, 12, 8)['products']
                    for phase in ('forward', 'train'))
  assert train == 3 * forward


def test_the_state_of_attention_is_counted_in_bytes_for_its_maximal_length():
  layer = Attention(2, form='naive')
  points = [layer_counts.count_layer_operations(layer, 'generate', n, 8) for n in (16, 32)]
  assert [point['state_bytes'] for point in points] == [2 * 4 * n * 8 + n + 4 for n in (16, 32)]
