"""Tests of sLSTM and mLSTM against their paper's equations without stabilizer, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from baselines.xlstm import LOG_ZERO, MLSTM, SLSTM, mlstm_scan
from tests.support.reference import (
  BATCH,
  assert_close,
  causal_depthwise_convolution,
  draw_normal_inputs,
  logistic,
  silu,
  to_float64,
)

HEADS, WIDTH = 2, 8


def block_diagonal_projections(x, kernel):
  """The G block-diagonal projections [B, T, D] of x [B, T, D] with blocks [N, K, G, K]."""
  parts = np.split(x, len(kernel), -1)
  return [
    np.concatenate([part @ block[:, g] for part, block in zip(parts, kernel, strict=True)], -1)
    for g in range(kernel.shape[2])
  ]


def head_norm(h, scale):
  """Layer norm of each head [H, K]."""
  centred = h - h.mean(-1, keepdims=True)
  normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * scale
  return normed.reshape(*h.shape[:-2], -1)


def reference_slstm(part, x, kernel_size):
  """Equations 8 to 14 of section 2.2, from an empty state."""
  local = x
  if kernel_size:
    local = silu(causal_depthwise_convolution(x, **part['convolution']))
  input_projection = [
    *block_diagonal_projections(local, part['i_f']['kernel']),
    *block_diagonal_projections(x, part['z_o']['kernel']),
  ]
  h, c, n, y = (np.zeros_like(x[:, 0]), np.zeros_like(x[:, 0]), 0, np.zeros_like(x))
  for t in range(x.shape[1]):
    recurrent = block_diagonal_projections(h, part['recurrent_kernel'])
    i, f, z, o = (
      w[:, t] + u + b
      for w, u, b in zip(input_projection, recurrent, part['bias'], strict=True)
    )
    c = logistic(f) * c + np.exp(i) * np.tanh(z)
    n = logistic(f) * n + np.exp(i)
    h = y[:, t] = logistic(o) * c / n
  return head_norm(y.reshape(*y.shape[:2], HEADS, -1), part['norm']['norm']['scale'])


def reference_mlstm(part, x, forget):
  """The equations of section 2.3 within the block of the appendix, from an empty state."""
  x, branch = np.split(x @ part['up']['kernel'], 2, -1)
  local = silu(causal_depthwise_convolution(x, **part['convolution']))
  query, key = block_diagonal_projections(local, part['query_key']['kernel'])
  (value,) = block_diagonal_projections(x, part['value']['kernel'])
  gates = np.concatenate([query, key, value], -1) @ part['gates']['kernel'] + part['gates']['bias']
  i, f = np.exp(gates[..., :HEADS]), forget(gates[..., HEADS:])
  h = np.zeros((*x.shape[:2], HEADS, x.shape[2] // HEADS))
  query, key, value = (a.reshape(h.shape) for a in (query, key, value))
  for b, head in np.ndindex(len(x), HEADS):
    memory, norm = 0, 0
    for t in range(x.shape[1]):
      index = b, t, head
      k = key[index] / np.sqrt(h.shape[-1])
      memory = f[index] * memory + i[index] * np.outer(value[index], k)
      norm = f[index] * norm + i[index] * k
      h[index] = memory @ query[index] / max(abs(norm @ query[index]), 1)
  y = (head_norm(h, part['norm']['norm']['scale']) + part['skip'] * local) * silu(branch)
  return y @ part['down']['kernel']


@pytest.mark.parametrize('kernel_size', [0, 3])
def test_an_slstm_equals_the_equations_of_its_paper(kernel_size):
  layer = SLSTM(HEADS, kernel_size)
  parameters, x, _ = draw_normal_inputs(layer, width=WIDTH)
  y, _ = jax.jit(layer.apply)(parameters, x)
  assert_close(y, reference_slstm(*to_float64(parameters['params'], x), kernel_size))


@pytest.mark.parametrize(('forget_gate', 'forget'), [('sigmoid', logistic), ('exp', np.exp)])
@pytest.mark.parametrize('chunk_size', [0, 2])
def test_an_mlstm_equals_the_equations_of_its_paper(forget_gate, forget, chunk_size):
  layer = MLSTM(HEADS, kernel_size=3, forget_gate=forget_gate, chunk_size=chunk_size)
  parameters, x, _ = draw_normal_inputs(layer, width=WIDTH)
  y, _ = jax.jit(layer.apply)(parameters, x)
  assert_close(y, reference_mlstm(*to_float64(parameters['params'], x), forget))


@functools.partial(jax.jit, static_argnums=(0, 1))
def outputs_and_gradients(form, chunk_size, arguments):
  """The outputs and the state of the matrix memory, and the gradients of a scalar of both."""
  def loss(arguments):
    y, (memory, m) = mlstm_scan(*arguments, form=form, chunk_size=chunk_size)
    state = memory * jnp.exp(jnp.minimum(m, 0))[..., None, None]
    weight = jnp.cos(jnp.arange(y.size)).reshape(y.shape)
    return jnp.sum(weight * y) + jnp.sum(jnp.sin(state)), (y, memory, m)

  return jax.grad(loss, has_aux=True)(arguments)


def draw_arguments(generator, length, scale):
  """Arguments of `mlstm_scan` with gates of a scale, some closed for input."""
  def draw(*shape):
    return generator.normal(0, 1, shape).astype(np.float32)

  shape = (BATCH, length, HEADS)
  log_i = np.where(generator.random(shape) < 0.2, -np.inf, scale * draw(*shape))
  log_f = -np.abs(scale * draw(*shape)) * (generator.random(shape) < 0.8)
  state = draw(BATCH, HEADS, 3, 4), draw(BATCH, HEADS)
  return [draw(*shape, 3), draw(*shape, 3), draw(*shape, 3), log_i.astype(np.float32), log_f, state]


@pytest.mark.slow
@settings(deadline=None, max_examples=8)
@given(
  seed=st.integers(0, 99), shape=st.sampled_from([(1, 4), (7, 2), (8, 4), (9, 8)]),
  scale=st.sampled_from([0.3, 3.0, 30.0]),
)
@example(seed=0, shape=(9, 8), scale=30.0)
def test_both_forms_of_the_matrix_memory_are_equal_in_value_and_gradient(seed, shape, scale):
  length, chunk_size = shape
  arguments = draw_arguments(np.random.default_rng(seed), length, scale)
  chunked = outputs_and_gradients('chunked', chunk_size, arguments)
  recurrent = outputs_and_gradients('recurrent', 0, arguments)
  # Gradients are differences where a single token has all the weight, hence less accurate.
  tolerances = 2e-5 * max(10, 2 * scale), 2e-5
  for actual, expected, tolerance in zip(chunked, recurrent, tolerances, strict=True):
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
      assert np.isfinite(a).all()
      assert_close(a, e, tolerance)


@pytest.mark.parametrize('form', ['recurrent', 'chunked'])
def test_a_query_of_zeros_gives_zeros_for_any_input_gate(form):
  ones = jnp.ones((1, 2, 1, 4))
  empty = jnp.zeros((1, 1, 4, 5)), jnp.zeros((1, 1))

  @jax.jit
  @functools.partial(jax.grad, argnums=range(5), has_aux=True)
  def gradients_and_output(query, key, value, log_i, log_f):
    h, state = mlstm_scan(query, key, value, log_i, log_f, empty, form=form)
    return jnp.sum(jnp.sin(h)) + jnp.sum(jnp.sin(state[0])), h

  for gate in (0.0, 44.0, 50.0, 100.0, 1e4):
    gates = jnp.full((1, 2, 1), gate)
    gradients, h = gradients_and_output(0 * ones, ones, ones, gates, 0 * gates)
    np.testing.assert_array_equal(h, 0)
    assert all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize('layer', [SLSTM(HEADS), MLSTM(HEADS)], ids=['slstm', 'mlstm'])
@pytest.mark.parametrize('shift', [-2.0, 5.0])
def test_outputs_do_not_depend_on_the_stabilizer(layer, shift):
  parameters, x, _ = draw_normal_inputs(layer, width=WIDTH)
  apply = jax.jit(layer.apply)
  _, (past, (*sums, m)) = apply(parameters, x)
  hidden = sums[:1] if len(sums) == 3 else []  # h of the sLSTM is not a stabilized sum.
  scaled = [s * jnp.exp(-shift) for s in sums[len(hidden):]]
  y, _ = apply(parameters, x, (past, (*sums, m)))
  shifted, _ = apply(parameters, x, (past, (*hidden, *scaled, m + shift)))
  assert_close(shifted, np.asarray(y))


@pytest.mark.parametrize('layer', [SLSTM(HEADS), MLSTM(HEADS)], ids=['slstm', 'mlstm'])
def test_outputs_and_gradients_are_finite_for_extreme_gates(layer):
  parameters, x, _ = draw_normal_inputs(layer, width=WIDTH)

  @jax.jit
  def gradients_and_output(x):
    def loss(parameters, x):
      y, _ = layer.apply(parameters, x)
      return jnp.sum(jnp.sin(y)), y

    return jax.grad(loss, (0, 1), has_aux=True)(parameters, x)

  for scale in (0.0, 300.0):
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients_and_output(scale * x)))


def test_the_first_output_of_an_slstm_does_not_depend_on_its_input_gate():
  layer = SLSTM(HEADS, kernel_size=0)
  parameters, x, _ = draw_normal_inputs(layer, width=WIDTH)
  bias = parameters['params']['bias']
  for i in (-200.0, 200.0):  # h_1 = o z, since c_1 / n_1 = i z / i
    changed = {'params': {**parameters['params'], 'bias': bias.at[0].set(i)}}
    _, (_, (h, c, n, m)) = jax.jit(layer.apply)(changed, x[:, :1])
    np.testing.assert_allclose(n, 1)
    np.testing.assert_allclose(m, i, atol=20)
    assert np.isfinite(h).all() and (m > LOG_ZERO).all() and np.abs(c).max() <= 1


def test_the_heads_of_an_mlstm_start_with_different_decays():
  layer = MLSTM(HEADS)
  zeros = jnp.zeros((BATCH, 1, WIDTH))
  parameters = jax.jit(layer.init)(jax.random.key(0), zeros)
  past, (memory, m) = layer.initial_state(BATCH, 1, WIDTH)
  _, (_, (after, m)) = jax.jit(layer.apply)(parameters, zeros, (past, (memory + 1, m)))
  decayed = np.asarray(after * jnp.exp(m)[..., None, None])
  np.testing.assert_allclose(decayed[..., 0], np.broadcast_to(
    logistic(np.array([3.0, 6.0]))[:, None], decayed.shape[1:-1]
  )[None].repeat(BATCH, 0), atol=1e-5)


@pytest.mark.parametrize(
  ('construct', 'message'),
  [
    (lambda: SLSTM(0), 'SLSTM needs num_heads >= 1, not 0'),
    (lambda: SLSTM(kernel_size=-1), 'kernel_size >= 0, not -1'),
    (lambda: MLSTM(-4), 'MLSTM needs num_heads >= 1, not -4'),
    (lambda: MLSTM(expansion=0), 'expansion >= 1, not 0'),
    (lambda: MLSTM(kernel_size=0), 'kernel_size >= 1, not 0'),
    (lambda: MLSTM(block_size=0), 'block_size >= 1, not 0'),
    (lambda: MLSTM(chunk_size=3), 'power of two.*not 3'),
    (lambda: MLSTM(forget_gate='tanh'), 'tanh.*sigmoid, exp'),
    (lambda: SLSTM(4).initial_state(1, 1, 6), 'width of 6 .*SLSTM with 4 heads.*multiples of 4'),
    (lambda: MLSTM(8).initial_state(1, 1, 6), 'width of 6 .*MLSTM with 8 heads.*multiples of 4'),
  ],
)
def test_invalid_xlstm_options_raise_an_error(construct, message):
  with pytest.raises(ValueError, match=message):
    construct()
