"""Ways between positions: closed forms, the Jacobian's support, and what cuts them."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import LAYERS
from baselines.convolution import TCN, Convolution
from baselines.linear_recurrence import MinGRU
from baselines.recurrent import GRU, LSTM, Elman
from experiments.complexity import counting, depth
from experiments.complexity.evaluate import evaluate
from experiments.complexity.paths import paths
from transformer import platform
from transformer.attention import Attention, SlidingWindow
from transformer.bidirectional import Bidirectional
from transformer.stack import Stack

X = jax.ShapeDtypeStruct((1, 6, 2), jnp.float32)
INF = np.inf


def ways(layer, length, width=8, sources=None):
  """Ways [S, T] through a layer."""
  x = jax.ShapeDtypeStruct((1, length, width), jnp.float32)
  parameters = counting.generic(layer, width)
  return paths(lambda x: layer.apply(parameters, x)[0], x, sources)


def test_arithmetic_is_one_operation_and_moving_none():
  np.testing.assert_array_equal(np.diag(paths(lambda x: jnp.sin(x) * 2, X)), 2)
  np.testing.assert_array_equal(np.diag(paths(lambda x: x.astype(jnp.bfloat16), X)), 0)
  shifted = paths(lambda x: jnp.pad(x, ((0, 0), (2, 0), (0, 0)))[:, :6], X)
  np.testing.assert_array_equal(shifted, np.where(np.eye(6, k=2), 0, INF))
  np.testing.assert_array_equal(paths(lambda x: x[:, ::-1], X), np.where(np.eye(6)[::-1], 0, INF))
  np.testing.assert_array_equal(paths(lambda x: jnp.ones_like(x), X), INF)
  np.testing.assert_array_equal(paths(lambda x: jnp.cumsum(x, 1), X),
                                np.where(np.triu(np.ones((6, 6))), 1, INF))


def test_of_several_ways_the_shortest_counts():
  found = paths(lambda x: x + jnp.sin(jnp.sin(x[:, ::-1])), X)
  np.testing.assert_array_equal(found, np.minimum(
    np.where(np.eye(6), 1, INF), np.where(np.eye(6)[::-1], 3, INF)))


MASKED = {
  'where': lambda x, mask: jnp.where(mask, x @ x.mT, 0) @ x,
  'times 0': lambda x, mask: (mask * (x @ x.mT)) @ x,
  'softmax': lambda x, mask: jax.nn.softmax(jnp.where(mask, x @ x.mT, -jnp.inf)) @ x,
  'a very low score': lambda x, mask: jax.nn.softmax(
    (x @ x.mT) + jnp.where(mask, 0, float(jnp.finfo(jnp.float32).min))) @ x,
}


@pytest.mark.parametrize('way', MASKED)
def test_what_a_mask_leaves_out_is_no_way(way):
  mask = jnp.tril(jnp.ones((1, 6, 6), bool))
  found = paths(lambda x: MASKED[way](x, mask), X)
  np.testing.assert_array_equal(np.isfinite(found), np.triu(np.ones((6, 6), bool)))


def test_a_product_that_underflows_is_no_zero():
  x = jax.ShapeDtypeStruct((1, 2, 1), jnp.float32)
  assert np.isfinite(paths(lambda x: x * (jnp.full((), 1e-30) * 1e-30), x)).any()
  assert np.isfinite(paths(lambda x: x * jnp.exp(jnp.full((), -1e4)), x)).any()
  assert np.isinf(paths(lambda x: x * (jnp.zeros(()) * 1e-30), x)).all()
  assert np.isinf(paths(lambda x: x * jnp.exp(jnp.full((), -jnp.inf)), x)).all()


def test_scatters_scans_branches_and_loops_with_known_ends_are_followed():
  found = paths(lambda x: x.at[:, 3].add(jnp.sin(x[:, 0])), X)
  np.testing.assert_array_equal(found[0], [0, INF, INF, 2, INF, INF])
  np.testing.assert_array_equal(np.diag(found), [0, 0, 0, 1, 0, 0])

  def backwards(x):
    return jax.lax.scan(lambda c, now: (jnp.sin(c) + now,) * 2, x[:, 0], x.swapaxes(0, 1),
                        reverse=True)[1].swapaxes(0, 1)

  found = paths(backwards, X)
  assert found[5, 0] == 1 + 2 * 5 and found[0, 5] == 2 and found[3, 2] == 3

  def twice(x):
    return jax.lax.fori_loop(0, jnp.int32(2), lambda _, x: jnp.roll(x, 1, 1) * 2, x)

  assert paths(twice, X)[0, 2] == 2 and np.isinf(paths(twice, X)[0, 1])
  chosen = paths(lambda x: jax.lax.cond(jnp.array(True), jnp.sin, lambda x: x, x), X)
  np.testing.assert_array_equal(np.diag(chosen), 1)


@pytest.mark.parametrize('what, function', [
  ('sort', lambda x: jnp.sort(x, 1)),
  ('cholesky', lambda x: jnp.linalg.cholesky(x @ x.mT)),
  ('dynamic_slice', lambda x: jax.lax.dynamic_slice_in_dim(x, x[0, 0, 0].astype(int), 2, 1)),
  ('cond', lambda x: jax.lax.cond(x[0, 0, 0] > 0, jnp.sin, jnp.cos, x)),
  ('while', lambda x: jax.lax.while_loop(lambda x: x[0, 0, 0] < 9, jnp.exp, x)),
])
def test_what_cannot_be_followed_is_refused_by_its_name(what, function):
  with pytest.raises(ValueError, match=what):
    paths(function, X)


@pytest.mark.parametrize('form', ['naive', 'blocked'])
def test_attention_is_as_far_from_everywhere(form):
  found = ways(Attention(2, form=form), 12)
  if form == 'naive':  # value, average, output
    np.testing.assert_array_equal(found, np.where(np.triu(np.ones((12, 12))), 3, INF))
  assert np.unique(found[np.isfinite(found)]).size == 1


@pytest.mark.parametrize('layer, slope, at_least', [
  (Elman(), 3, 1), (LSTM(), 2, 9), (GRU(), 2, 4), (MinGRU(), 2, 3),
])
def test_a_recurrence_is_as_far_as_there_are_tokens_between(layer, slope, at_least):
  with platform.assumed('cpu'):
    for length in (9, 14):
      found = counting.farthest(layer, length)
      assert found == {'length': length, 'layers': 1, 'operations': slope * length + at_least}


@settings(deadline=None, max_examples=8)
@given(st.integers(2, 5), st.integers(1, 3), st.integers(2, 20))
def test_contiguous_kernels_need_as_many_layers_as_they_fit_between(size, dilation, length):
  layer = Convolution(size, dilation=dilation)
  reach = (size - 1) * dilation
  layers = max(1, math.ceil((length - 1) / reach))
  assert counting.covering(layer, length)[1] == layers
  found = ways(Stack((layer,), layers), length, 2)
  assert np.isfinite(found[0, -1]) == (dilation == 1 or (length - 1) % dilation == 0)
  if layers > 1 and dilation == 1:
    assert found[0, -1] == 2 * layers  # a convolution and its bias, again and again
    assert np.isinf(ways(Stack((layer,), layers - 1), length, 2)[0, -1])


@pytest.mark.parametrize('length', [8, 16, 32, 64])
def test_dilated_kernels_need_logarithmically_many_levels(length):
  size = 3
  layer, levels = counting.covering(TCN(size, levels=1), length)
  assert levels == math.ceil(math.log2((length - 1) / (2 * (size - 1)) + 1))
  found = counting.farthest(TCN(size, levels=1), length)
  assert found['layers'] == levels == layer.levels
  assert found['operations'] <= 2 * 4 * levels  # two convolutions, biases and rectifiers a level


@pytest.mark.parametrize('form', ['naive', 'banded'])
@pytest.mark.parametrize('window, length', [(4, 13), (5, 18), (3, 10)])
def test_windows_need_as_many_layers_as_lie_between(form, window, length):
  layer = SlidingWindow(2, window=window, form=form)
  layers = math.ceil((length - 1) / (window - 1))
  found = counting.farthest(layer, length)
  assert found['layers'] == layers
  assert found['operations'] == (3 if form == 'naive' else 4) * layers


def test_an_encoder_looks_both_ways():
  assert np.isfinite(ways(Bidirectional(GRU()), 5)).all()
  assert np.isfinite(ways(Attention(2, causal=False), 5)).all()


def support(layer, length, width, draws):
  """Where the Jacobian is not 0 for any of so many draws of parameters and inputs."""
  shapes = counting.parameters_of(layer, width)

  @jax.jit
  def touched(key):
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(key, len(leaves) + 1)
    parameters = [0.5 * jax.random.normal(k, leaf.shape)
                  for k, leaf in zip(keys[1:], leaves, strict=True)]
    x = jax.random.normal(keys[0], (1, length, width))
    rows = jax.jacrev(lambda x: layer.apply(tree.unflatten(parameters), x)[0][0])(x)
    return (rows[:, :, 0] != 0).any((1, 3)).T

  return functools.reduce(np.logical_or, (np.asarray(touched(key))
                                          for key in jax.random.split(jax.random.key(0), draws)))


QUICK = ('gru', 'tcn')


@pytest.mark.parametrize('name', [
  pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in LAYERS])
def test_there_is_a_way_exactly_where_the_jacobian_is_not_zero(name):
  layer = LAYERS[name]()
  width = math.lcm(8, layer.width_multiple)
  found = ways(layer, 12, width)
  np.testing.assert_array_equal(np.isfinite(found), support(layer, 12, width, 6))
  x = jax.ShapeDtypeStruct((1, 12, width), jnp.float32)
  chain = depth.of(lambda x: layer.apply(counting.generic(layer, width), x)[0], x)
  assert found[np.isfinite(found)].max() <= chain, 'a way is longer than the longest chain'


SCANS = ('mingru', 's5', 'mamba', 'gla', 'mlstm', 'gated_deltanet', 'rwkv7')  # of two forms


@pytest.mark.slow
@pytest.mark.parametrize('name, form', [
  *((name, 'cpu') for name in LAYERS if name not in SCANS), *((name, 'gpu') for name in SCANS)])
def test_no_way_is_longer_than_one_from_the_first_token(name, form):
  layer, length = LAYERS[name](), 36
  with platform.assumed(form):
    reaching, _ = counting.covering(layer, length)
    found = ways(reaching, length)
    first = ways(reaching, length, sources=[0])
  np.testing.assert_array_equal(first, found[:1])
  assert found[np.triu_indices(length)].max() == first.max() < INF


@pytest.mark.parametrize('function, values', [
  (lambda x: jax.lax.pad(x, 0.5, ((1, -1, 1), (-2, 3, 0))), [(4, 5)]),
  (lambda x: x[1:4:2, ::-1].T.reshape(-1)[None], [(5, 4)]),
  (lambda x: jax.lax.dynamic_slice(x, (7, -1), (2, 3)), [(4, 5)]),
  (lambda x, y: jax.lax.dynamic_update_slice(x, y, (3, 9)), [(4, 5), (2, 2)]),
  (lambda x, y: jnp.concatenate([x, y, jnp.maximum(-jnp.abs(y), jnp.cos(y))]), [(2, 3), (1, 3)]),
  (lambda x: jnp.split(x, [1, 3], 1)[1] * jnp.exp(x[:, :2]), [(2, 5)]),
  (lambda x: jnp.broadcast_to(x[:, None], (3, 2, 4)), [(3, 4)]),
])
def test_numpy_makes_of_an_equation_what_jax_does(function, values):
  values = [np.random.default_rng(0).normal(size=shape).astype(np.float32) for shape in values]
  program = jax.make_jaxpr(function)(*values)

  def run(jaxpr, values):
    known = dict(zip([*jaxpr.jaxpr.constvars, *jaxpr.jaxpr.invars], [*jaxpr.consts, *values],
                     strict=True))
    for equation in jaxpr.eqns:
      operands = [np.asarray(a.val, a.aval.dtype) if hasattr(a, 'val') else np.asarray(known[a])
                  for a in equation.invars]
      inner = equation.params.get('jaxpr')
      made = run(inner, operands) if inner else evaluate(equation, operands)
      known |= zip(equation.outvars, made, strict=True)
    return [known[v] for v in jaxpr.jaxpr.outvars]

  (made,) = run(program, values)
  expected = function(*map(jnp.asarray, values))
  np.testing.assert_allclose(made, expected, rtol=1e-6)
  assert made.dtype == expected.dtype
