"""The Jacobian row by row: of maps whose Jacobian is known, and against the whole one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from baselines.convolution import Convolution
from baselines.recurrent import GRU
from experiments.lab.measure import jacobian

BATCH, LENGTH = 2, 5


def drawn(*shape):
  """Numbers from a normal distribution."""
  return jnp.array(np.random.default_rng(0).normal(size=shape), jnp.float32)


@pytest.mark.parametrize('width', [3, 11])  # fewer rows than are taken at once, and some left over
def test_rows_of_a_linear_map_are_its_matrices(width):
  matrices = drawn(LENGTH, LENGTH, 2 + width, width)  # [T, S, V, D]

  def function(x):
    return jnp.einsum('tsvd,bsd->btv', matrices, x)

  found = jax.jit(functools.partial(jacobian.at_output, function))(drawn(BATCH, LENGTH, width), 3)
  expected = np.broadcast_to(matrices[3], found.shape)
  np.testing.assert_allclose(found, expected, atol=1e-6)


def test_rows_through_a_gradient_by_hand_are_those_of_the_whole_jacobian():
  x, layer = drawn(BATCH, LENGTH, 3), GRU()
  parameters = layer.init(jax.random.key(0), x)

  def function(x):
    return layer.apply(parameters, x)[0]

  whole = jax.jit(jax.jacrev(function))(x)  # [B, T, V, B, S, D]
  found = jax.jit(functools.partial(jacobian.at_output, function))(x, LENGTH - 1)
  for b in range(BATCH):
    np.testing.assert_allclose(found[b], whole[b, -1, :, b].swapaxes(0, 1), atol=1e-6)


@pytest.mark.parametrize('scale', [1.0, 1e-30, 1e30])
def test_norms_are_those_of_linear_algebra_at_every_scale_that_float32_has(scale):
  blocks = np.array(drawn(BATCH, LENGTH, 4, 3), np.float64)
  blocks[0, 1] = 0
  small = jnp.array(blocks * scale, jnp.float32)
  for norm, order in ((jacobian.frobenius, 'fro'), (jacobian.spectral, 2)):
    found = np.asarray(jax.jit(norm)(small), np.float64) / scale
    np.testing.assert_allclose(found, np.linalg.norm(blocks, order, (2, 3)), rtol=1e-5)


def test_the_identity_stretches_by_one_and_nothing_depends_on_what_is_not_seen():
  rows = jacobian.at_output(lambda x: x, drawn(BATCH, LENGTH, 4), 2)
  np.testing.assert_allclose(jacobian.spectral(rows)[:, 2], 1, rtol=1e-6)
  np.testing.assert_allclose(jacobian.frobenius(rows)[:, 2], 2, rtol=1e-6)  # sqrt(D)
  np.testing.assert_array_equal(jacobian.support(rows), np.arange(LENGTH)[None] == [[2]] * BATCH)

  layer, x = Convolution(kernel_size=2, dilation=2), drawn(BATCH, LENGTH, 3)
  parameters = layer.init(jax.random.key(0), x)
  rows = jax.jit(lambda x: jacobian.at_output(lambda x: layer.apply(parameters, x)[0], x, 4))(x)
  seen = [[False, False, True, False, True]] * BATCH
  np.testing.assert_array_equal(jacobian.support(rows), seen)
