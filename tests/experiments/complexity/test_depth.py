"""The longest chain of a program is that of the same program with its loops written out."""

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
from experiments.complexity import counting, depth
from transformer import platform
from transformer.attention import Attention

X = jnp.ones(4)


def chain(x, length):
  """So many operations after one another."""
  for _ in range(length):
    x = jnp.sin(x)
  return x


def test_what_does_not_wait_for_each_other_is_done_at_once():
  assert depth.of(lambda x: chain(x, 3) + chain(x, 5), X) == 6
  assert depth.of(lambda x: (chain(x, 3), chain(x, 5)), X) == 5
  assert depth.of(lambda x: x.reshape(2, 2).T[0], X) == 0
  assert depth.of(lambda x: jnp.zeros(3), X) == 0
  assert depth.of(lambda x: jax.jit(lambda x: chain(x, 2))(chain(x, 1)), X) == 3


def test_a_sum_is_one_operation_or_as_many_as_a_tree_has_levels():
  for size in (1, 2, 5, 8, 9):
    levels, x = int(np.ceil(np.log2(size))), jnp.ones((3, size))
    assert depth.of(lambda x: x.sum(1), x) == 1
    assert depth.of(lambda x: x.sum(1), x, logarithmic=True) == levels
    assert depth.of(lambda x: x @ x.T, x) == 1
    assert depth.of(lambda x: x @ x.T, x, logarithmic=True) == 1 + levels
    assert depth.of(lambda x: jax.lax.cummax(x, 1), x, logarithmic=True) == levels
    assert depth.of(jnp.sin, x, logarithmic=True) == 1
    in_order = lambda x: jax.lax.sort(x, dimension=1)  # noqa: E731
    assert depth.of(in_order, x, logarithmic=True) == levels * (levels + 1) // 2


bodies = st.lists(  # for each of three carried values: which it reads, and how long that takes
  st.tuples(st.lists(st.booleans(), min_size=5, max_size=5), st.integers(0, 4)),
  min_size=3, max_size=3,
)


@settings(deadline=None, max_examples=25)
@given(bodies, st.integers(1, 7), st.lists(st.integers(0, 6), min_size=5, max_size=5))
def test_a_scan_is_as_deep_as_its_turns_written_out(body, length, before):
  def turn(constant, carry, x):
    sources = (*carry, constant, x)
    after = []
    for reads, steps in body:
      found = [source for source, read in zip(sources, reads, strict=True) if read] or [X]
      after.append(chain(sum(found[1:], found[0]), steps))
    return tuple(after), chain(after[0] * after[1], 2)

  def start(x):
    *carry, constant, xs = (chain(x, steps) for steps in before)
    return tuple(carry), constant, jnp.broadcast_to(xs[None], (length, 4))

  def looped(x):
    carry, constant, xs = start(x)
    return jax.lax.scan(lambda carry, x: turn(constant, carry, x), carry, xs)

  def written_out(x):
    carry, constant, xs = start(x)
    made = []
    for t in range(length):
      carry, y = turn(constant, carry, xs[t])
      made.append(y)
    return carry, jnp.stack(made)

  for logarithmic in (False, True):
    assert (depth.of(looped, X, logarithmic=logarithmic)
            == depth.of(written_out, X, logarithmic=logarithmic))


def test_scans_within_scans_are_multiplied_and_what_a_turn_does_alone_is_not():
  def inner(x):
    return jax.lax.scan(lambda x, _: (chain(x, 2), None), x, None, length=3)[0]

  assert depth.of(lambda x: jax.lax.scan(lambda x, _: (inner(x), None), x, None, length=5)[0],
                  X) == 2 * 3 * 5
  alone = lambda xs: jax.lax.map(lambda x: chain(x, 4), xs)  # noqa: E731
  assert depth.of(alone, jnp.ones((1000, 4))) == 4


def test_a_branch_waits_for_what_chooses_it_and_is_as_deep_as_the_deepest():
  def branched(x):
    return jax.lax.cond(chain(x, 7)[0] > 0, lambda x: chain(x, 1), lambda x: chain(x, 3), x)

  assert depth.of(branched, X) == 7 + 1 + 3


def test_a_loop_whose_turns_depend_on_data_is_refused():
  with pytest.raises(ValueError, match='while'):
    depth.of(lambda x: jax.lax.while_loop(lambda x: x[0] < 9, jnp.sin, x), X)


@pytest.mark.parametrize('form, growth', [('sequential', 2), ('associative', None)])
def test_an_associative_scan_is_logarithmic(form, growth):
  def of(length):
    x = jnp.ones((length, 1, 2))
    return depth.of(lambda x: linear_scan(x, x, jnp.zeros((1, 2)), form=form)[0], x)

  found = [of(length) for length in (64, 128, 256, 512)]
  steps = {b - a for a, b in itertools.pairwise(found)}
  if growth:
    assert steps == {growth * n for n in (64, 128, 256)}
  else:
    assert len(steps) == 1 and steps.pop() <= 5


@pytest.mark.parametrize('layer, slope', [
  (Attention(2, form='naive'), 0), (Convolution(3), 0), (TCN(2, levels=2), 0), (LSTM(), 10),
])
def test_layers_are_as_deep_as_their_loops(layer, slope):
  few, many = (counting.counted(layer, 'forward', n, 8)['depth'] for n in (16, 48))
  assert many - few == slope * 32


def test_forms_are_those_of_the_platform_that_is_assumed():
  found = {}
  for name in ('cpu', 'gpu', 'cpu'):
    with platform.assumed(name):
      x = jnp.ones((64, 1, 2))
      found.setdefault(name, []).append(
        depth.of(lambda x: linear_scan(x, x, jnp.zeros((1, 2)))[0], x))
  assert found['cpu'] == [128, 128] and found['gpu'][0] < 40
