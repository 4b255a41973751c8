"""Path lengths compared with closed forms and the Jacobian's support, and removal of paths."""

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
from experiments.complexity import depth, layer_counts
from experiments.complexity.numpy_evaluation import evaluate_jaxpr_equation
from experiments.complexity.path_length import shortest_path_lengths
from transformer import platform
from transformer.attention import Attention, SlidingWindow
from transformer.bidirectional import Bidirectional
from transformer.stack import Stack

X = jax.ShapeDtypeStruct((1, 6, 2), jnp.float32)
INF = np.inf


def layer_paths(layer, length, width=8, sources=None):
  """Path lengths [S, T] through a layer with generic parameters."""
  x = jax.ShapeDtypeStruct((1, length, width), jnp.float32)
  parameters = layer_counts.random_nonzero_parameters(layer, width)
  return shortest_path_lengths(lambda x: layer.apply(parameters, x)[0], x, sources)


def test_arithmetic_is_one_operation_and_movement_is_none():
  np.testing.assert_array_equal(np.diag(shortest_path_lengths(lambda x: jnp.sin(x) * 2, X)), 2)
  cast = shortest_path_lengths(lambda x: x.astype(jnp.bfloat16), X)
  np.testing.assert_array_equal(np.diag(cast), 0)
  shifted = shortest_path_lengths(lambda x: jnp.pad(x, ((0, 0), (2, 0), (0, 0)))[:, :6], X)
  np.testing.assert_array_equal(shifted, np.where(np.eye(6, k=2), 0, INF))
  reversed_ = shortest_path_lengths(lambda x: x[:, ::-1], X)
  np.testing.assert_array_equal(reversed_, np.where(np.eye(6)[::-1], 0, INF))
  np.testing.assert_array_equal(shortest_path_lengths(lambda x: jnp.ones_like(x), X), INF)
  np.testing.assert_array_equal(shortest_path_lengths(lambda x: jnp.cumsum(x, 1), X),
                                np.where(np.triu(np.ones((6, 6))), 1, INF))


def test_the_shortest_of_several_paths_counts():
  paths = shortest_path_lengths(lambda x: x + jnp.sin(jnp.sin(x[:, ::-1])), X)
  np.testing.assert_array_equal(paths, np.minimum(
    np.where(np.eye(6), 1, INF), np.where(np.eye(6)[::-1], 3, INF)))


MASKED_ATTENTION = {
  'where': lambda x, mask: jnp.where(mask, x @ x.mT, 0) @ x,
  'product with 0': lambda x, mask: (mask * (x @ x.mT)) @ x,
  'softmax': lambda x, mask: jax.nn.softmax(jnp.where(mask, x @ x.mT, -jnp.inf)) @ x,
  'very low score': lambda x, mask: jax.nn.softmax(
    (x @ x.mT) + jnp.where(mask, 0, float(jnp.finfo(jnp.float32).min))) @ x,
}


@pytest.mark.parametrize('method', MASKED_ATTENTION)
def test_a_mask_removes_paths(method):
  mask = jnp.tril(jnp.ones((1, 6, 6), bool))
  paths = shortest_path_lengths(lambda x: MASKED_ATTENTION[method](x, mask), X)
  np.testing.assert_array_equal(np.isfinite(paths), np.triu(np.ones((6, 6), bool)))


def test_a_product_that_underflows_is_not_zero():
  x = jax.ShapeDtypeStruct((1, 2, 1), jnp.float32)
  assert np.isfinite(shortest_path_lengths(lambda x: x * (jnp.full((), 1e-30) * 1e-30), x)).any()
  assert np.isfinite(shortest_path_lengths(lambda x: x * jnp.exp(jnp.full((), -1e4)), x)).any()
  assert np.isinf(shortest_path_lengths(lambda x: x * (jnp.zeros(()) * 1e-30), x)).all()
  assert np.isinf(shortest_path_lengths(lambda x: x * jnp.exp(jnp.full((), -jnp.inf)), x)).all()


def test_scatters_scans_branches_and_loops_with_constant_conditions_are_supported():
  paths = shortest_path_lengths(lambda x: x.at[:, 3].add(jnp.sin(x[:, 0])), X)
  np.testing.assert_array_equal(paths[0], [0, INF, INF, 2, INF, INF])
  np.testing.assert_array_equal(np.diag(paths), [0, 0, 0, 1, 0, 0])

  def reverse_scan(x):
    return jax.lax.scan(lambda c, now: (jnp.sin(c) + now,) * 2, x[:, 0], x.swapaxes(0, 1),
                        reverse=True)[1].swapaxes(0, 1)

  paths = shortest_path_lengths(reverse_scan, X)
  assert paths[5, 0] == 1 + 2 * 5 and paths[0, 5] == 2 and paths[3, 2] == 3

  def roll_twice(x):
    return jax.lax.fori_loop(0, jnp.int32(2), lambda _, x: jnp.roll(x, 1, 1) * 2, x)

  paths = shortest_path_lengths(roll_twice, X)
  assert paths[0, 2] == 2 and np.isinf(paths[0, 1])
  branch = shortest_path_lengths(
    lambda x: jax.lax.cond(jnp.array(True), jnp.sin, lambda x: x, x), X)
  np.testing.assert_array_equal(np.diag(branch), 1)


@pytest.mark.parametrize('name, function', [
  ('sort', lambda x: jnp.sort(x, 1)),
  ('cholesky', lambda x: jnp.linalg.cholesky(x @ x.mT)),
  ('dynamic_slice', lambda x: jax.lax.dynamic_slice_in_dim(x, x[0, 0, 0].astype(int), 2, 1)),
  ('cond', lambda x: jax.lax.cond(x[0, 0, 0] > 0, jnp.sin, jnp.cos, x)),
  ('while', lambda x: jax.lax.while_loop(lambda x: x[0, 0, 0] < 9, jnp.exp, x)),
])
def test_an_unsupported_operation_is_refused_by_its_name(name, function):
  with pytest.raises(ValueError, match=name):
    shortest_path_lengths(function, X)


@pytest.mark.parametrize('form', ['naive', 'blocked'])
def test_attention_has_the_same_path_length_from_all_positions(form):
  paths = layer_paths(Attention(2, form=form), 12)
  if form == 'naive':  # value, average, output
    np.testing.assert_array_equal(paths, np.where(np.triu(np.ones((12, 12))), 3, INF))
  assert np.unique(paths[np.isfinite(paths)]).size == 1


@pytest.mark.parametrize('layer, slope, constant', [
  (Elman(), 3, 1), (LSTM(), 2, 9), (GRU(), 2, 4), (MinGRU(), 2, 3),
])
def test_the_path_length_of_a_recurrence_grows_linearly(layer, slope, constant):
  with platform.override_platform('cpu'):
    for length in (9, 14):
      operations = slope * length + constant
      expected = {'length': length, 'layers': 1, 'operations': operations}
      assert layer_counts.maximum_path_length(layer, length) == expected


@settings(deadline=None, max_examples=8)
@given(st.integers(2, 5), st.integers(1, 3), st.integers(2, 20))
def test_the_layers_of_contiguous_kernels_grow_linearly(size, dilation, length):
  layer = Convolution(size, dilation=dilation)
  reach = (size - 1) * dilation
  layers = max(1, math.ceil((length - 1) / reach))
  assert layer_counts.smallest_stack_with_receptive_field(layer, length)[1] == layers
  paths = layer_paths(Stack((layer,), layers), length, 2)
  assert np.isfinite(paths[0, -1]) == (dilation == 1 or (length - 1) % dilation == 0)
  if layers > 1 and dilation == 1:
    assert paths[0, -1] == 2 * layers  # a convolution and a bias per layer
    assert np.isinf(layer_paths(Stack((layer,), layers - 1), length, 2)[0, -1])


@pytest.mark.parametrize('length', [8, 16, 32, 64])
def test_the_levels_of_dilated_kernels_grow_logarithmically(length):
  size = 3
  layer, levels = layer_counts.smallest_stack_with_receptive_field(TCN(size, levels=1), length)
  assert levels == math.ceil(math.log2((length - 1) / (2 * (size - 1)) + 1))
  path = layer_counts.maximum_path_length(TCN(size, levels=1), length)
  assert path['layers'] == levels == layer.levels
  # Each level has two convolutions, biases and rectifiers.
  assert path['operations'] <= 2 * 4 * levels


@pytest.mark.parametrize('form', ['naive', 'banded'])
@pytest.mark.parametrize('window, length', [(4, 13), (5, 18), (3, 10)])
def test_the_layers_of_windowed_attention_grow_linearly(form, window, length):
  layer = SlidingWindow(2, window=window, form=form)
  layers = math.ceil((length - 1) / (window - 1))
  path = layer_counts.maximum_path_length(layer, length)
  assert path['layers'] == layers
  assert path['operations'] == (3 if form == 'naive' else 4) * layers


def test_an_encoder_has_paths_between_all_positions():
  assert np.isfinite(layer_paths(Bidirectional(GRU()), 5)).all()
  assert np.isfinite(layer_paths(Attention(2, causal=False), 5)).all()


def jacobian_support(layer, length, width, draws):
  """A mask of the entries of the Jacobian that are not 0 for some random parameters and inputs."""
  shapes = layer_counts.parameter_shapes(layer, width)

  @jax.jit
  def is_nonzero(key):
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(key, len(leaves) + 1)
    parameters = [0.5 * jax.random.normal(k, leaf.shape)
                  for k, leaf in zip(keys[1:], leaves, strict=True)]
    x = jax.random.normal(keys[0], (1, length, width))
    rows = jax.jacrev(lambda x: layer.apply(tree.unflatten(parameters), x)[0][0])(x)
    return (rows[:, :, 0] != 0).any((1, 3)).T

  return functools.reduce(np.logical_or, (np.asarray(is_nonzero(key))
                                          for key in jax.random.split(jax.random.key(0), draws)))


QUICK = ('gru', 'tcn')


@pytest.mark.parametrize('name', [
  pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in LAYERS])
def test_paths_exist_exactly_where_the_jacobian_is_not_zero(name):
  layer = LAYERS[name]()
  width = math.lcm(8, layer.required_width_divisor)
  paths = layer_paths(layer, 12, width)
  np.testing.assert_array_equal(np.isfinite(paths), jacobian_support(layer, 12, width, 6))
  x = jax.ShapeDtypeStruct((1, 12, width), jnp.float32)
  parameters = layer_counts.random_nonzero_parameters(layer, width)
  chain = depth.longest_operation_chain_length(lambda x: layer.apply(parameters, x)[0], x)
  assert paths[np.isfinite(paths)].max() <= chain, 'a path is longer than the longest chain'


TWO_FORMS = ('mingru', 's5', 'mamba', 'gla', 'mlstm', 'gated_deltanet', 'rwkv7')


@pytest.mark.slow
@pytest.mark.parametrize('name, form', [
  *((name, 'cpu') for name in LAYERS if name not in TWO_FORMS),
  *((name, 'gpu') for name in TWO_FORMS),
])
def test_the_longest_path_starts_at_the_first_token(name, form):
  layer, length = LAYERS[name](), 36
  with platform.override_platform(form):
    stack, _ = layer_counts.smallest_stack_with_receptive_field(layer, length)
    paths = layer_paths(stack, length)
    first = layer_paths(stack, length, sources=[0])
  np.testing.assert_array_equal(first, paths[:1])
  assert paths[np.triu_indices(length)].max() == first.max() < INF


@pytest.mark.parametrize('function, values', [
  (lambda x: jax.lax.pad(x, 0.5, ((1, -1, 1), (-2, 3, 0))), [(4, 5)]),
  (lambda x: x[1:4:2, ::-1].T.reshape(-1)[None], [(5, 4)]),
  (lambda x: jax.lax.dynamic_slice(x, (7, -1), (2, 3)), [(4, 5)]),
  (lambda x, y: jax.lax.dynamic_update_slice(x, y, (3, 9)), [(4, 5), (2, 2)]),
  (lambda x, y: jnp.concatenate([x, y, jnp.maximum(-jnp.abs(y), jnp.cos(y))]), [(2, 3), (1, 3)]),
  (lambda x: jnp.split(x, [1, 3], 1)[1] * jnp.exp(x[:, :2]), [(2, 5)]),
  (lambda x: jnp.broadcast_to(x[:, None], (3, 2, 4)), [(3, 4)]),
])
def test_evaluation_with_numpy_equals_jax(function, values):
  values = [np.random.default_rng(0).normal(size=shape).astype(np.float32) for shape in values]
  program = jax.make_jaxpr(function)(*values)

  def evaluate_jaxpr(jaxpr, values):
    known = dict(zip([*jaxpr.jaxpr.constvars, *jaxpr.jaxpr.invars], [*jaxpr.consts, *values],
                     strict=True))
    for equation in jaxpr.eqns:
      operands = [np.asarray(a.val, a.aval.dtype) if hasattr(a, 'val') else np.asarray(known[a])
                  for a in equation.invars]
      inner = equation.params.get('jaxpr')
      outputs = (
        evaluate_jaxpr(inner, operands) if inner
        else evaluate_jaxpr_equation(equation, operands))
      known |= zip(equation.outvars, outputs, strict=True)
    return [known[v] for v in jaxpr.jaxpr.outvars]

  (result,) = evaluate_jaxpr(program, values)
  expected = function(*map(jnp.asarray, values))
  np.testing.assert_allclose(result, expected, rtol=1e-6)
  assert result.dtype == expected.dtype
