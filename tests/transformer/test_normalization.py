"""Norms are accurate to rounding at any mean, and models use no norms of libraries."""

import ast
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from baselines.xlstm import HeadNorm
from experiments.lab.training.optimizer import weight_decay_mask
from tests.support.float64 import float64_enabled
from tests.support.reference import rms_norm
from transformer import platform
from transformer.attention import Attention
from transformer.block import Block
from transformer.feedforward import FeedForward
from transformer.model import DecoderOnly
from transformer.normalization import LayerNorm, RMSNorm, normalize
from transformer.positions import Learned
from transformer.stack import Stack

ROOT = pathlib.Path(__file__).parents[2]
NORMS = {
  'BatchNorm', 'GroupNorm', 'InstanceNorm', 'LayerNorm', 'RMSNorm', 'standardize', 'var',
}
EXEMPT = ('normalization.py', 'speed/benchmarks/decoder.py')


def normal_array(mean, deviation=1.0, shape=(2, 5, 64)):
  return np.random.default_rng(3).normal(mean, deviation, shape).astype(np.float32)


def float64_standardize(x):
  """Scales and shifts the last axis to mean 0 and standard deviation 1, in float64."""
  x = np.float64(x)
  x -= x.mean(-1, keepdims=True)
  return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6)


@pytest.mark.parametrize('mean', [0, 1, 100, 1000, -1e4, 1e6])
def test_layer_norm_is_accurate_at_any_mean(mean):
  """The tolerance allows a relative rounding error of 2^-24 in the mean and in each value."""
  x, norm = normal_array(mean), LayerNorm()
  y = jax.jit(norm.apply)(norm.init(jax.random.key(0), x), x)
  np.testing.assert_allclose(y, float64_standardize(x), atol=2e-6 + 2.0**-22 * abs(mean))


@pytest.mark.parametrize('mean', [0, 1000])
def test_head_norm_is_accurate_at_any_mean(mean):
  x, norm = normal_array(mean, shape=(2, 3, 4, 16)), HeadNorm()
  parameters = norm.init(jax.random.key(0), x, jnp.float32)
  y = norm.apply(parameters, x, jnp.float32)
  expected = float64_standardize(x).reshape(y.shape)
  np.testing.assert_allclose(y, expected, atol=2e-6 + 2.0**-22 * mean)


@pytest.mark.parametrize('mean', [0, 1000, 1e6])
def test_rms_norm_is_accurate_at_any_mean(mean):
  x, norm = normal_array(mean), RMSNorm()
  y = norm.apply(norm.init(jax.random.key(0), x), x)
  np.testing.assert_allclose(y, rms_norm(np.float64(x), 1, 1e-6), rtol=2e-6)


def test_statistics_of_bfloat16_are_float32():
  x, norm = jnp.array(normal_array(20), jnp.bfloat16), LayerNorm(dtype=jnp.bfloat16)
  y = norm.apply(norm.init(jax.random.key(0), x), x)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.float32(y), float64_standardize(x), atol=2.0**-7)


def test_a_constant_added_to_all_position_vectors_changes_no_prediction():
  """Norms subtract the constant, but one-pass variances would change most predictions."""
  layers = Attention(2, Learned(16), use_bias=True), FeedForward()
  model = DecoderOnly(nn.Embed(50, 32), Stack(tuple(map(Block, layers)), 2))
  tokens = np.random.default_rng(0).integers(0, 50, (8, 16))
  parameters = jax.jit(model.init)(jax.random.key(1), tokens)
  positions = parameters['params']['prelude']['positions']
  shifted = jax.tree.map(lambda p: p + 1000 if p is positions else p, parameters)
  apply = jax.jit(model.apply)
  (expected, _), (logits, _) = apply(parameters, tokens), apply(shifted, tokens)
  np.testing.assert_allclose(logits, expected, atol=0.01 * np.ptp(expected))
  first, second = np.sort(expected, -1)[..., -1], np.sort(expected, -1)[..., -2]
  clear = first - second > 0.02 * np.ptp(expected)
  assert clear.mean() > 0.5
  np.testing.assert_array_equal(logits.argmax(-1)[clear], expected.argmax(-1)[clear])


def library_norms(source):
  """Names of library norms and variance functions that a source file uses."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Attribute) and node.attr in NORMS:
      yield node.attr
    if isinstance(node, ast.ImportFrom) and node.module.split('.')[0] in ('flax', 'jax'):
      yield from NORMS.intersection(alias.name for alias in node.names)


@pytest.mark.parametrize('package', ['transformer', 'baselines', 'experiments'])
def test_models_use_no_norm_of_a_library(package):
  for path in (ROOT / package).rglob('*.py'):
    if not path.as_posix().endswith(EXEMPT):
      norms = list(library_norms(path.read_text()))
      assert not norms, f'{path} uses {norms} instead of transformer/normalization.py'


@pytest.mark.parametrize('source', [
  'nn.LayerNorm()', 'from flax.linen import RMSNorm', 'y = jnp.var(x)', 'linen.GroupNorm(4)'])
def test_library_norms_are_detected(source):
  assert list(library_norms(source))


def test_norm_parameters_have_no_weight_decay():
  for norm in (LayerNorm(), RMSNorm()):
    parameters = norm.init(jax.random.key(0), normal_array(0))
    assert not any(jax.tree.leaves(weight_decay_mask(parameters)))


@pytest.mark.parametrize('on', ['cpu', 'tpu'])
@pytest.mark.parametrize(('tokens', 'shape', 'subtract_mean'), [
  ((2, 3), (5,), True), ((2, 3), (3, 5), True), ((1, 1), (5,), False), ((2, 3), (3, 5), False)])
def test_gradients_of_norms_match_automatic_differentiation(on, tokens, shape, subtract_mean):
  with float64_enabled(), platform.override_platform(on):
    generator = np.random.default_rng(0)
    x = jnp.array(generator.normal(30, 1, (*tokens, *shape)))
    scale, bias = (jnp.array(generator.normal(size=shape)) for _ in range(2))
    weight = jnp.array(generator.normal(size=x.shape))

    def equation(x, scale, bias):
      centred = x - x.mean(-1, keepdims=True) if subtract_mean else x
      standard = centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 0.1)
      axes = tuple(range(len(tokens)))
      return standard * jnp.expand_dims(scale, axes) + jnp.expand_dims(bias, axes)

    def value_and_gradients(function):
      def loss(*arguments):
        y = function(*arguments)
        return jnp.sum(weight * y), y

      return jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(x, scale, bias)

    actual = value_and_gradients(lambda x, s, b: normalize(x, s, b, 0.1, subtract_mean))
    jax.tree.map(
      functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-10),
      actual, value_and_gradients(equation))


def test_constant_inputs_have_finite_gradients():
  loss = lambda x: jnp.sum(jnp.sin(normalize(x, jnp.ones(4), None, 1e-6)))  # noqa: E731
  gradient = jax.grad(loss)(jnp.full((2, 4), 7.0))
  assert np.isfinite(gradient).all()
