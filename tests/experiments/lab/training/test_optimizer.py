"""Weight decay applies to weights of products alone, and clipping works for any gradient norm."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from baselines import LAYERS, TRANSLATORS
from experiments.lab.cells.experiment import create_experiment
from experiments.lab.cells.run import Run
from experiments.lab.training import optimizer as optimizer_module
from experiments.lab.training.optimizer import optimizer, weight_decay_mask
from experiments.lab.training.recipe import Recipe
from tests.experiments.lab.training.product_weights import (
  INPUT,
  Value,
  find_weights,
  propagate_program,
)
from transformer.attention import Attention
from transformer.feedforward import ACTIVATIONS, FeedForward
from transformer.layer import SequenceLayer
from transformer.model import DecoderOnly
from transformer.positions import POSITIONS


def selected_paths(tree, flags):
  """The paths of the leaves of a tree whose flag is true."""
  leaves = jax.tree_util.tree_leaves_with_path(tree['params'])
  paths = [jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in leaves]
  return {path for path, selected in zip(paths, flags, strict=True) if selected}


def decayed_paths(parameters):
  """The paths of the parameters with weight decay."""
  return selected_paths(parameters, jax.tree.leaves(weight_decay_mask(parameters)))


def check_weight_decay(module, *inputs):
  """Raises if names and programs disagree about the weights of a module."""
  start, parameters = jax.make_jaxpr(module.init, return_shape=True)(jax.random.key(0), *inputs)
  weights = selected_paths(parameters, find_weights(module.apply, parameters, *inputs))
  names = decayed_paths(parameters)
  assert names <= weights, (
    f'decayed, though they are no weights of a product: {sorted(names - weights)}; '
    'names other than kernel and embedding exclude them from weight decay')
  assert weights <= names, (
    f'weights that are not decayed: {sorted(weights - names)}; '
    'call them kernel, or end their names in _kernel')

  key_and_inputs = [Value(INPUT)] + [Value()] * (len(start.jaxpr.invars) - 1)
  initial = propagate_program(start, key_and_inputs, set())
  fixed = [value.source < INPUT for value in initial]
  if constants := selected_paths(parameters, fixed) & names:
    leaves = jax.jit(lambda key: [
      leaf for leaf, is_fixed in zip(jax.tree.leaves(module.init(key, *inputs)), fixed, strict=True)
      if is_fixed])(jax.random.key(0))
    zeros = iter([not np.any(leaf) for leaf in leaves])
    zeros = selected_paths(parameters, [is_fixed and next(zeros) for is_fixed in fixed])
    assert constants <= zeros, (
      f'decayed, though their initial value is not random: {sorted(constants - zeros)}')


def zero_input(layer):
  return jnp.zeros((2, 7, 2 * layer.required_width_divisor))


@pytest.mark.parametrize('name', LAYERS)
def test_weight_decay_of_a_layer_covers_exactly_its_weights(name):
  layer = LAYERS[name]()
  check_weight_decay(layer, zero_input(layer))


@pytest.mark.parametrize('name', ACTIVATIONS)
def test_weight_decay_of_a_feed_forward_network_covers_exactly_its_weights(name):
  check_weight_decay(FeedForward(name), jnp.zeros((1, 2, 4)))


def model_and_inputs(**settings):
  """A model as studies build it, and inputs of zeros for it."""
  run = Run(width=16, depth=1, match='none', batch_size=2, **settings)
  experiment = create_experiment(run)
  task = experiment.task
  arguments, _ = jax.eval_shape(lambda: task.model_arguments(task.batch('train', 0, 2)))
  return experiment.model_at_width(), [jnp.zeros(x.shape, x.dtype) for x in arguments]


@pytest.mark.parametrize('name', TRANSLATORS)
def test_weight_decay_of_a_translator_covers_exactly_its_weights(name):
  model, inputs = model_and_inputs(
    layer=name, task='copy(max_length=3, alphabet_size=3)', feedforward='swiglu')
  check_weight_decay(model, *inputs)
  parameters = jax.eval_shape(model.init, jax.random.key(0), *inputs)
  assert 'embedding/embedding' in decayed_paths(parameters)


@pytest.mark.parametrize('task', ['recall(length=16, num_pairs=2)', 'adding(length=4)'])
def test_weight_decay_of_a_model_covers_its_embedding_and_its_head(task):
  model, inputs = model_and_inputs(layer='lstm', task=task, feedforward='gelu')
  check_weight_decay(model, *inputs)
  decays = decayed_paths(jax.eval_shape(model.init, jax.random.key(0), *inputs))
  assert {'head/kernel', 'stack/level_0/layer/recurrent_kernel'} < decays
  assert any(path.startswith('embedding') for path in decays)


@pytest.mark.parametrize('name', POSITIONS)
def test_position_parameters_are_added_and_never_decayed(name):
  """Shaw's vectors r are added to keys, although q (k + r) may be computed as q k + q r."""
  layer = Attention(2, POSITIONS[name](), use_bias=True, query_key_norm=True)
  model = DecoderOnly(nn.Embed(5, 8), layer)
  tokens = jnp.zeros((1, 6), jnp.int32)
  parameters = jax.eval_shape(model.init, jax.random.key(0), tokens)
  kernels = {'embedding/embedding', 'stack/projection/kernel', 'stack/output/kernel'}
  assert decayed_paths(parameters) == kernels
  assert any('positions' in path or 'prelude' in path for path in selected_paths(
    parameters, [True] * len(jax.tree.leaves(parameters)))) == (
      name in ('learned', 't5_bias', 'shaw'))


class FreelyNamed(SequenceLayer):
  """A layer with a matrix, a scale, a rate and a bias whose names are fields."""

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
  ({'start': nn.initializers.ones}, 'initial value is not random'),
  ({'matrix': 'mixing'}, 'weights that are not decayed'),
  ({'matrix': 'kernels'}, 'weights that are not decayed'),
  ({'scale': 'scale_kernel'}, 'no weights of a product'),
  ({'rate': 'embedding'}, 'no weights of a product'),
  ({'bias': 'bias_kernel'}, 'no weights of a product'),
])
def test_the_check_rejects_a_wrong_name(names, message):
  layer = FreelyNamed(**names)
  if message is None:
    check_weight_decay(layer, zero_input(layer))
  else:
    with pytest.raises(AssertionError, match=message):
      check_weight_decay(layer, zero_input(layer))


def test_parameters_without_decay_do_not_change_at_zero_gradient():
  parameters = {'a': {'kernel': jnp.ones(3), 'bias': jnp.ones((3, 3))}, 'b_kernel': jnp.ones(2)}
  adamw = optimizer(Recipe(weight_decay=0.5, clip=0.0))
  gradient = jax.tree.map(jnp.zeros_like, parameters)
  updates, _ = jax.jit(adamw.update)(gradient, adamw.init(parameters), parameters)
  np.testing.assert_array_equal(updates['a']['kernel'], 0.5)
  np.testing.assert_array_equal(updates['b_kernel'], 0.5)
  np.testing.assert_array_equal(updates['a']['bias'], 0)


@pytest.mark.parametrize('clip', [0.0, 0.5, 3.0])
def test_a_gradient_of_any_norm_is_clipped_to_the_maximal_norm(clip):
  adam = optimizer(Recipe(optimizer='adam', clip=clip, epsilon=1e-30))
  direction = {'a': jnp.array([[2.0, -1.0]]), 'b': jnp.ones(4)}  # its norm is 3
  start, update = adam.init(direction), jax.jit(adam.update)
  for size in (1e-15, 1e-3, 1.0, 1e10, 1e20, 1e30, 1e38):
    gradient = jax.tree.map(lambda g: np.float32(size) * g, direction)  # noqa: B023
    updates, moments = update(gradient, start)
    for u, g in zip(jax.tree.leaves(updates), jax.tree.leaves(gradient), strict=True):
      np.testing.assert_allclose(u, np.sign(g), rtol=1e-4, err_msg=f'{size}')
    if clip:
      scale = 0.1 * min(size, clip / 3)
      flat = np.concatenate([g.ravel() for g in jax.tree.leaves(direction)])
      (adam_state,) = (state for state in moments if hasattr(state, 'mu'))
      np.testing.assert_allclose(adam_state.mu, scale * flat, rtol=1e-5, err_msg=f'{size}')


@pytest.mark.parametrize('value', [jnp.nan, jnp.inf])
def test_a_gradient_that_is_not_finite_gives_a_nan_update(value):
  adam = optimizer(Recipe(optimizer='adam'))
  gradient = {'a': jnp.array([value, 1.0])}
  updates, _ = jax.jit(adam.update)(gradient, adam.init(gradient))
  assert jnp.isnan(updates['a'][0])


@pytest.mark.parametrize('name', ['adam', 'adamw'])
def test_a_vector_of_all_parameters_gets_the_updates_of_separate_arrays(name, monkeypatch):
  kernel = jnp.arange(6.0).reshape(2, 3)
  parameters = {'a': {'kernel': kernel, 'bias': jnp.ones(3)}, 'b': jnp.ones(())}
  gradient = jax.tree.map(lambda p: jnp.sin(1 + p), parameters)

  def updates_of_two_steps():
    transformation = optimizer(Recipe(optimizer=name))
    moments = transformation.init(parameters)
    first, moments = transformation.update(gradient, moments, parameters)
    return first, transformation.update(parameters, moments, parameters)[0]

  together = updates_of_two_steps()
  monkeypatch.setattr(optimizer_module, 'MAX_FLATTENED_SIZE', 9)
  jax.tree.map(
    functools.partial(np.testing.assert_allclose, rtol=1e-6), together, updates_of_two_steps())
