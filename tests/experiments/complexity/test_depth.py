"""The depth of a program equals that of the same program with unrolled loops."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines.convolution import TCN, Convolution
from baselines.recurrent import LSTM
from baselines.scans import linear_scan
from experiments.complexity import layer_counts
from experiments.complexity.depth import longest_operation_chain_length
from transformer import platform
from transformer.attention import Attention

X = jnp.ones(4)


def sine_chain(x, length):
  """The sine applied `length` times."""
  for _ in range(length):
    x = jnp.sin(x)
  return x


def test_independent_operations_run_in_parallel():
  assert longest_operation_chain_length(lambda x: sine_chain(x, 3) + sine_chain(x, 5), X) == 6
  assert longest_operation_chain_length(lambda x: (sine_chain(x, 3), sine_chain(x, 5)), X) == 5
  assert longest_operation_chain_length(lambda x: x.reshape(2, 2).T[0], X) == 0
  assert longest_operation_chain_length(lambda x: jnp.zeros(3), X) == 0
  compiled_chain = jax.jit(lambda x: sine_chain(x, 2))
  assert longest_operation_chain_length(lambda x: compiled_chain(sine_chain(x, 1)), X) == 3


def test_a_sum_is_one_operation_or_the_levels_of_a_tree():
  for size in (1, 2, 5, 8, 9):
    levels, x = int(np.ceil(np.log2(size))), jnp.ones((3, size))
    row_sum = lambda x: x.sum(1)  # noqa: E731
    assert longest_operation_chain_length(row_sum, x, reductions_have_log_depth=True) == levels
    assert longest_operation_chain_length(row_sum, x) == 1
    product = lambda x: x @ x.T  # noqa: E731
    assert longest_operation_chain_length(product, x) == 1
    assert longest_operation_chain_length(product, x, reductions_have_log_depth=True) == 1 + levels
    maximum = lambda x: jax.lax.cummax(x, 1)  # noqa: E731
    assert longest_operation_chain_length(maximum, x, reductions_have_log_depth=True) == levels
    assert longest_operation_chain_length(jnp.sin, x, reductions_have_log_depth=True) == 1
    in_order = lambda x: jax.lax.sort(x, dimension=1)  # noqa: E731
    depth_of_network = levels * (levels + 1) // 2
    length = longest_operation_chain_length(in_order, x, reductions_have_log_depth=True)
    assert length == depth_of_network


# The operands and the depth of each of three carried values of a loop.
bodies = st.lists(
  st.tuples(st.lists(st.booleans(), min_size=5, max_size=5), st.integers(0, 4)),
  min_size=3, max_size=3,
)


@settings(deadline=None, max_examples=25)
@given(bodies, st.integers(1, 7), st.lists(st.integers(0, 6), min_size=5, max_size=5))
def test_the_depth_of_a_scan_equals_that_of_the_unrolled_loop(body, length, before):
  def iteration(constant, carry, x):
    sources = (*carry, constant, x)
    updated = []
    for is_operand, steps in body:
      operands = [s for s, used in zip(sources, is_operand, strict=True) if used] or [X]
      updated.append(sine_chain(sum(operands[1:], operands[0]), steps))
    return tuple(updated), sine_chain(updated[0] * updated[1], 2)

  def initial_values(x):
    *carry, constant, xs = (sine_chain(x, steps) for steps in before)
    return tuple(carry), constant, jnp.broadcast_to(xs[None], (length, 4))

  def scanned(x):
    carry, constant, xs = initial_values(x)
    return jax.lax.scan(lambda carry, x: iteration(constant, carry, x), carry, xs)

  def unrolled(x):
    carry, constant, xs = initial_values(x)
    outputs = []
    for t in range(length):
      carry, y = iteration(constant, carry, xs[t])
      outputs.append(y)
    return carry, jnp.stack(outputs)

  for logarithmic in (False, True):
    assert (longest_operation_chain_length(scanned, X, reductions_have_log_depth=logarithmic)
            == longest_operation_chain_length(unrolled, X, reductions_have_log_depth=logarithmic))


def test_nested_scans_multiply_and_independent_iterations_do_not():
  def inner_scan(x):
    return jax.lax.scan(lambda x, _: (sine_chain(x, 2), None), x, None, length=3)[0]

  def outer_scan(x):
    return jax.lax.scan(lambda x, _: (inner_scan(x), None), x, None, length=5)[0]

  assert longest_operation_chain_length(outer_scan, X) == 2 * 3 * 5
  independent = lambda xs: jax.lax.map(lambda x: sine_chain(x, 4), xs)  # noqa: E731
  assert longest_operation_chain_length(independent, jnp.ones((1000, 4))) == 4


def test_a_branch_waits_for_its_condition_and_counts_as_the_deepest_one():
  def branched(x):
    condition = sine_chain(x, 7)[0] > 0
    return jax.lax.cond(condition, lambda x: sine_chain(x, 1), lambda x: sine_chain(x, 3), x)

  assert longest_operation_chain_length(branched, X) == 7 + 1 + 3


def test_a_loop_with_an_unknown_number_of_iterations_is_refused():
  with pytest.raises(ValueError, match='while'):
    longest_operation_chain_length(lambda x: jax.lax.while_loop(lambda x: x[0] < 9, jnp.sin, x), X)


@pytest.mark.parametrize('form, growth', [('sequential', 2), ('associative', None)])
def test_an_associative_scan_has_logarithmic_depth(form, growth):
  def scan_depth(length):
    x = jnp.ones((length, 1, 2))
    return longest_operation_chain_length(
      lambda x: linear_scan(x, x, jnp.zeros((1, 2)), form=form)[0], x)

  depths = [scan_depth(length) for length in (64, 128, 256, 512)]
  steps = {b - a for a, b in itertools.pairwise(depths)}
  if growth:
    assert steps == {growth * n for n in (64, 128, 256)}
  else:
    assert len(steps) == 1 and steps.pop() <= 5


@pytest.mark.parametrize('layer, slope', [
  (Attention(2, form='naive'), 0), (Convolution(3), 0), (TCN(2, levels=2), 0), (LSTM(), 10),
])
def test_the_depth_of_a_layer_grows_with_its_loop(layer, slope):
  few, many = (
    layer_counts.count_layer_operations(layer, 'forward', n, 8)['depth'] for n in (16, 48))
  assert many - few == slope * 32


def test_a_layer_has_the_form_of_the_assumed_platform():
  depths = {}
  for name in ('cpu', 'gpu', 'cpu'):
    with platform.override_platform(name):
      x = jnp.ones((64, 1, 2))
      depths.setdefault(name, []).append(
        longest_operation_chain_length(lambda x: linear_scan(x, x, jnp.zeros((1, 2)))[0], x))
  assert depths['cpu'] == [128, 128] and depths['gpu'][0] < 40
