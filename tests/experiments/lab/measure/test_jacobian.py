"""Jacobians at one output, compared with known Jacobians and with the complete Jacobian."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from baselines.convolution import Convolution
from baselines.recurrent import GRU
from experiments.lab.measure import jacobian

BATCH, LENGTH = 2, 5


def normal_array(*shape):
  """Samples of a normal distribution."""
  return jnp.array(np.random.default_rng(0).normal(size=shape), jnp.float32)


@pytest.mark.parametrize('width', [3, 11])  # less and more than ROWS_AT_ONCE
def test_the_jacobian_of_a_linear_map_consists_of_its_matrices(width):
  matrices = normal_array(LENGTH, LENGTH, 2 + width, width)  # [T, S, V, D]

  def function(x):
    return jnp.einsum('tsvd,bsd->btv', matrices, x)

  x = normal_array(BATCH, LENGTH, width)
  rows = jax.jit(functools.partial(jacobian.jacobian_of_output_at_position, function))(x, 3)
  expected = np.broadcast_to(matrices[3], rows.shape)
  np.testing.assert_allclose(rows, expected, atol=1e-6)


def test_the_jacobian_through_a_handwritten_gradient_equals_the_complete_jacobian():
  x, layer = normal_array(BATCH, LENGTH, 3), GRU()
  parameters = layer.init(jax.random.key(0), x)

  def function(x):
    return layer.apply(parameters, x)[0]

  complete = jax.jit(jax.jacrev(function))(x)  # [B, T, V, B, S, D]
  last_output = functools.partial(jacobian.jacobian_of_output_at_position, function)
  rows = jax.jit(last_output)(x, LENGTH - 1)
  for b in range(BATCH):
    np.testing.assert_allclose(rows[b], complete[b, -1, :, b].swapaxes(0, 1), atol=1e-6)


@pytest.mark.parametrize('scale', [1.0, 1e-30, 1e30])
def test_norms_equal_numpys_at_every_scale_of_float32(scale):
  blocks = np.array(normal_array(BATCH, LENGTH, 4, 3), np.float64)
  blocks[0, 1] = 0
  small = jnp.array(blocks * scale, jnp.float32)
  for norm, order in ((jacobian.frobenius_norm, 'fro'), (jacobian.spectral_norm, 2)):
    norms = np.asarray(jax.jit(norm)(small), np.float64) / scale
    np.testing.assert_allclose(norms, np.linalg.norm(blocks, order, (2, 3)), rtol=1e-5)


def test_norms_of_the_identity_and_the_support_of_a_convolution_are_known():
  rows = jacobian.jacobian_of_output_at_position(lambda x: x, normal_array(BATCH, LENGTH, 4), 2)
  np.testing.assert_allclose(jacobian.spectral_norm(rows)[:, 2], 1, rtol=1e-6)
  np.testing.assert_allclose(jacobian.frobenius_norm(rows)[:, 2], 2, rtol=1e-6)  # sqrt(D)
  expected = np.arange(LENGTH)[None] == [[2]] * BATCH
  np.testing.assert_array_equal(jacobian.dependence_mask(rows), expected)

  layer, x = Convolution(kernel_size=2, dilation=2), normal_array(BATCH, LENGTH, 3)
  parameters = layer.init(jax.random.key(0), x)
  convolve = lambda x: layer.apply(parameters, x)[0]  # noqa: E731
  rows = jax.jit(lambda x: jacobian.jacobian_of_output_at_position(convolve, x, 4))(x)
  expected = [[False, False, True, False, True]] * BATCH
  np.testing.assert_array_equal(jacobian.dependence_mask(rows), expected)
