"""Norms are right to rounding at any mean, and no others are built."""

import ast
import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from baselines.xlstm import HeadNorm
from experiments.lab.training.optimizer import decayed
from tests.support.reference import rms_norm
from transformer.attention import Attention
from transformer.block import Block
from transformer.feedforward import FeedForward
from transformer.model import DecoderOnly
from transformer.normalization import LayerNorm, RMSNorm, standardised
from transformer.positions import Learned
from transformer.stack import Stack

ROOT = pathlib.Path(__file__).parents[2]
NORMS = {
  'BatchNorm', 'GroupNorm', 'InstanceNorm', 'LayerNorm', 'RMSNorm', 'standardize', 'var',
}
OTHERS = ('normalization.py', 'speed/contests/decoder.py', 'speed/pytorch.py')  # rivals of speed


def drawn(mean, deviation=1.0, shape=(2, 5, 64)):
  return np.random.default_rng(3).normal(mean, deviation, shape).astype(np.float32)


def normal(x):
  """Mean 0 and deviation 1 of the last axis, in float64."""
  x = np.float64(x)
  x -= x.mean(-1, keepdims=True)
  return x / np.sqrt(np.mean(x**2, -1, keepdims=True) + 1e-6)


@pytest.mark.parametrize('mean', [0, 1, 100, 1000, -1e4, 1e6])
def test_layer_norm_is_right_to_the_rounding_of_its_mean(mean):
  """A mean is rounded to 2^-24 of itself, and so is each value."""
  x, norm = drawn(mean), LayerNorm()
  y = jax.jit(norm.apply)(norm.init(jax.random.key(0), x), x)
  np.testing.assert_allclose(y, normal(x), atol=2e-6 + 2.0**-22 * abs(mean))


@pytest.mark.parametrize('mean', [0, 1000])
def test_the_norm_of_heads_is_right_too(mean):
  x, norm = drawn(mean, shape=(2, 3, 4, 16)), HeadNorm()
  parameters = norm.init(jax.random.key(0), x, jnp.float32)
  y = norm.apply(parameters, x, jnp.float32)
  np.testing.assert_allclose(y, normal(x).reshape(y.shape), atol=2e-6 + 2.0**-22 * mean)


@pytest.mark.parametrize('mean', [0, 1000, 1e6])
def test_rms_norm_is_right_at_any_mean(mean):
  x, norm = drawn(mean), RMSNorm()
  y = norm.apply(norm.init(jax.random.key(0), x), x)
  np.testing.assert_allclose(y, rms_norm(np.float64(x), 1, 1e-6), rtol=2e-6)


def test_statistics_of_bfloat16_are_float32():
  x, norm = jnp.array(drawn(20), jnp.bfloat16), LayerNorm(dtype=jnp.bfloat16)
  y = norm.apply(norm.init(jax.random.key(0), x), x)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.float32(y), normal(x), atol=2.0**-7)


def test_a_constant_added_to_every_position_vector_changes_no_answer():
  """Each norm takes it away; with the variance in one pass most answers were others."""
  layers = Attention(2, Learned(16), use_bias=True), FeedForward()
  model = DecoderOnly(nn.Embed(50, 32), Stack(tuple(map(Block, layers)), 2))
  tokens = np.random.default_rng(0).integers(0, 50, (8, 16))
  parameters = jax.jit(model.init)(jax.random.key(1), tokens)
  positions = parameters['params']['prelude']['positions']
  moved = jax.tree.map(lambda p: p + 1000 if p is positions else p, parameters)
  read = jax.jit(model.apply)
  (expected, _), (logits, _) = read(parameters, tokens), read(moved, tokens)
  np.testing.assert_allclose(logits, expected, atol=0.01 * np.ptp(expected))
  first, second = np.sort(expected, -1)[..., -1], np.sort(expected, -1)[..., -2]
  clear = first - second > 0.02 * np.ptp(expected)
  assert clear.mean() > 0.5
  np.testing.assert_array_equal(logits.argmax(-1)[clear], expected.argmax(-1)[clear])


def other_norms(source):
  """The norms that a file takes from a library, and variances that it computes itself."""
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Attribute) and node.attr in NORMS:
      yield node.attr
    if isinstance(node, ast.ImportFrom) and node.module.split('.')[0] in ('flax', 'jax'):
      yield from NORMS.intersection(alias.name for alias in node.names)


@pytest.mark.parametrize('floor', ['transformer', 'baselines', 'experiments'])
def test_no_other_norm_is_built(floor):
  for path in (ROOT / floor).rglob('*.py'):
    if not path.as_posix().endswith(OTHERS):
      found = list(other_norms(path.read_text()))
      assert not found, f'{path}: {found}; norms come from transformer/normalization.py'


@pytest.mark.parametrize('source', [
  'nn.LayerNorm()', 'from flax.linen import RMSNorm', 'y = jnp.var(x)', 'linen.GroupNorm(4)'])
def test_another_norm_is_noticed(source):
  assert list(other_norms(source))


def test_a_norms_parameters_are_not_decayed():
  for norm in (LayerNorm(), RMSNorm()):
    parameters = norm.init(jax.random.key(0), drawn(0))
    assert not any(jax.tree.leaves(decayed(parameters)))


@pytest.mark.parametrize('mean', [0, 30])
def test_the_gradient_is_that_of_the_equation(mean):
  x, pull = drawn(mean, shape=(3, 2, 8)), drawn(0, shape=(3, 2, 8))
  norm = LayerNorm(use_bias=False, feature_axes=(-2, -1))
  parameters = {'params': {'scale': drawn(1, shape=(2, 8))}}

  def equation(parameters, x):
    around = x - x.mean(-1, keepdims=True)
    deviation = jnp.sqrt(jnp.square(around).mean(-1, keepdims=True) + 1e-6)
    return around / deviation * parameters['params']['scale'][None]

  found, expected = (
    jax.jit(jax.grad(lambda p, x: jnp.sum(pull * how(p, x)), (0, 1)))(parameters, x)  # noqa: B023
    for how in (norm.apply, equation)
  )
  jax.tree.map(functools.partial(np.testing.assert_allclose, atol=3e-5), found, expected)


def test_equal_values_have_a_finite_gradient():
  gradient = jax.grad(lambda x: jnp.sum(jnp.sin(standardised(x, 1e-6))))(jnp.full((2, 4), 7.0))
  assert np.isfinite(gradient).all()
