"""The optimiser decays weights of products and nothing else, and takes gradients of any size."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from baselines import LAYERS, TRANSLATORS
from experiments.lab.cells.experiment import resolve
from experiments.lab.cells.run import Run
from experiments.lab.training.optimizer import decayed, optimizer
from experiments.lab.training.recipe import Recipe
from tests.experiments.lab.training.multiplied import INPUT, Value, follow, weights
from transformer.attention import Attention
from transformer.feedforward import ACTIVATIONS, FeedForward
from transformer.layer import SequenceLayer
from transformer.model import DecoderOnly
from transformer.positions import POSITIONS


def chosen(tree, flags):
  """The paths of the leaves of a tree that are chosen."""
  leaves = jax.tree_util.tree_leaves_with_path(tree['params'])
  paths = [jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in leaves]
  return {path for path, is_chosen in zip(paths, flags, strict=True) if is_chosen}


def named(parameters):
  """The paths of what training decays."""
  return chosen(parameters, jax.tree.leaves(decayed(parameters)))


def check(module, *inputs):
  """Raises where the names say something else than the programs that start and apply a module."""
  start, parameters = jax.make_jaxpr(module.init, return_shape=True)(jax.random.key(0), *inputs)
  multiplied = chosen(parameters, weights(module.apply, parameters, *inputs))
  names = named(parameters)
  assert names <= multiplied, (
    f'decayed, though they are no weights of a product: {sorted(names - multiplied)}; '
    'a name other than kernel and embedding leaves them alone')
  assert multiplied <= names, (
    f'weights that are not decayed: {sorted(multiplied - names)}; '
    'call them kernel, or end their names in _kernel')

  drawn = follow(start, [Value(INPUT)] + [Value()] * (len(start.jaxpr.invars) - 1), set())
  fixed = [value.source < INPUT for value in drawn]
  if constants := chosen(parameters, fixed) & names:
    leaves = jax.jit(lambda key: [
      leaf for leaf, is_fixed in zip(jax.tree.leaves(module.init(key, *inputs)), fixed, strict=True)
      if is_fixed])(jax.random.key(0))
    zeros = iter([not np.any(leaf) for leaf in leaves])
    zeros = chosen(parameters, [is_fixed and next(zeros) for is_fixed in fixed])
    assert constants <= zeros, (
      f'decayed, though their start is no random number: {sorted(constants - zeros)}')


def reading(layer):
  """An input of zeros."""
  return jnp.zeros((2, 7, 2 * layer.width_multiple))


@pytest.mark.parametrize('name', LAYERS)
def test_a_layer_decays_what_multiplies_its_input(name):
  layer = LAYERS[name]()
  check(layer, reading(layer))


@pytest.mark.parametrize('name', ACTIVATIONS)
def test_a_feed_forward_network_decays_what_multiplies_its_input(name):
  check(FeedForward(name), jnp.zeros((1, 2, 4)))


def model_of(**settings):
  """A model as studies build it, and inputs for it."""
  run = Run(width=16, depth=1, match='none', batch_size=2, **settings)
  one = resolve(run)
  arguments, _ = jax.eval_shape(lambda: one.task.arguments(one.task.batch('train', 0, 2)))
  return one.unmatched(), [jnp.zeros(x.shape, x.dtype) for x in arguments]


@pytest.mark.parametrize('name', TRANSLATORS)
def test_a_translator_decays_what_multiplies_its_tokens(name):
  model, inputs = model_of(
    layer=name, task='copy(max_length=3, alphabet_size=3)', feedforward='swiglu')
  check(model, *inputs)
  parameters = jax.eval_shape(model.init, jax.random.key(0), *inputs)
  assert 'embedding/embedding' in named(parameters)


@pytest.mark.parametrize('task', ['recall(length=16, num_pairs=2)', 'adding(length=4)'])
def test_a_model_decays_its_embedding_and_its_head(task):
  model, inputs = model_of(layer='lstm', task=task, feedforward='gelu')
  check(model, *inputs)
  decays = named(jax.eval_shape(model.init, jax.random.key(0), *inputs))
  assert {'head/kernel', 'stack/level_0/layer/recurrent_kernel'} < decays
  assert any(path.startswith('embedding') for path in decays)


@pytest.mark.parametrize('name', POSITIONS)
def test_positions_are_added_and_so_are_never_decayed(name):
  """A product may come first: q (k + r) as q k + q r, where Shaw's vectors r are added to keys."""
  layer = Attention(2, POSITIONS[name](), use_bias=True, query_key_norm=True)
  model = DecoderOnly(nn.Embed(5, 8), layer)
  tokens = jnp.zeros((1, 6), jnp.int32)
  parameters = jax.eval_shape(model.init, jax.random.key(0), tokens)
  kernels = {'embedding/embedding', 'stack/projection/kernel', 'stack/output/kernel'}
  assert named(parameters) == kernels
  assert any('positions' in path or 'prelude' in path for path in chosen(
    parameters, [True] * len(jax.tree.leaves(parameters)))) == (
      name in ('learned', 't5_bias', 'shaw'))


class Wrong(SequenceLayer):
  """A matrix, a norm's scale, a rate and a bias, of which the names are given."""

  matrix: str = 'kernel'
  start: Callable = nn.initializers.normal()  # of the matrix
  scale: str = 'scale'
  rate: str = 'rate'
  bias: str = 'offset'

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):
    width, normal = x.shape[-1], nn.initializers.normal()
    x = x @ self.param(self.matrix, self.start, (width, width))
    x = x * self.param(self.scale, normal, (width,))[None, None]
    x = x * jnp.exp(-jnp.exp(self.param(self.rate, normal, (2, width)))).sum(0)[None, None]
    return x + self.param(self.bias, normal, (1, 1, width)), ()


@pytest.mark.parametrize(('names', 'message'), [
  ({}, None),
  ({'matrix': 'mixing_kernel'}, None),
  ({'start': nn.initializers.zeros}, None),
  ({'start': nn.initializers.ones}, 'no random number'),
  ({'matrix': 'mixing'}, 'weights that are not decayed'),
  ({'matrix': 'kernels'}, 'weights that are not decayed'),
  ({'scale': 'scale_kernel'}, 'no weights of a product'),
  ({'rate': 'embedding'}, 'no weights of a product'),
  ({'bias': 'bias_kernel'}, 'no weights of a product'),
])
def test_the_law_rejects_a_wrong_name(names, message):
  layer = Wrong(**names)
  if message is None:
    check(layer, reading(layer))
  else:
    with pytest.raises(AssertionError, match=message):
      check(layer, reading(layer))


def test_what_is_not_decayed_stays_where_no_gradient_moves_it():
  parameters = {'a': {'kernel': jnp.ones(3), 'bias': jnp.ones((3, 3))}, 'b_kernel': jnp.ones(2)}
  change = optimizer(Recipe(weight_decay=0.5, clip=0.0))
  nothing = jax.tree.map(jnp.zeros_like, parameters)
  updates, _ = jax.jit(change.update)(nothing, change.init(parameters), parameters)
  np.testing.assert_array_equal(updates['a']['kernel'], 0.5)
  np.testing.assert_array_equal(updates['b_kernel'], 0.5)
  np.testing.assert_array_equal(updates['a']['bias'], 0)


@pytest.mark.parametrize('clip', [0.0, 0.5, 3.0])
def test_a_gradient_of_any_size_is_clipped_to_its_norm(clip):
  change = optimizer(Recipe(optimizer='adam', clip=clip, epsilon=1e-30))
  direction = {'a': jnp.array([[2.0, -1.0]]), 'b': jnp.ones(4)}  # its norm is 3
  start, update = change.init(direction), jax.jit(change.update)
  for size in (1e-15, 1e-3, 1.0, 1e10, 1e20, 1e30, 1e38):
    gradient = jax.tree.map(lambda g: np.float32(size) * g, direction)  # noqa: B023
    updates, moments = update(gradient, start)
    for u, g in zip(jax.tree.leaves(updates), jax.tree.leaves(gradient), strict=True):
      np.testing.assert_allclose(u, np.sign(g), rtol=1e-4, err_msg=f'{size}')
    if clip:
      kept = 0.1 * min(size, clip / 3)
      for m, g in zip(jax.tree.leaves(moments[1].mu), jax.tree.leaves(direction), strict=True):
        np.testing.assert_allclose(m, kept * g, rtol=1e-5, err_msg=f'{size}')


@pytest.mark.parametrize('value', [jnp.nan, jnp.inf])
def test_a_gradient_that_is_no_number_is_not_made_one(value):
  change = optimizer(Recipe(optimizer='adam'))
  gradient = {'a': jnp.array([value, 1.0])}
  updates, _ = jax.jit(change.update)(gradient, change.init(gradient))
  assert jnp.isnan(updates['a'][0])
