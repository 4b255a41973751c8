"""Tests of recurrent layers against their papers' equations, and of unroll against autodiff."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from baselines.recurrent import GRU, LSTM, Elman
from baselines.unroll import gate_activations, split_gates, unroll
from baselines.xlstm import SLSTMCell
from tests.support.float64 import float64_enabled
from tests.support.reference import BATCH, LENGTH, WIDTH, draw_normal_inputs, logistic, to_float64


def elman_step(x, state, w, u, b):
  (h,) = state
  return (np.tanh(x @ w + h @ u + b),)


def lstm_step(x, state, w, u, b):
  """Gers et al., 2000, with the gates in the order input, forget, cell, output."""
  h, c = state
  (wi, wf, wg, wo), (ui, uf, ug, uo), (bi, bf, bg, bo) = (np.split(a, 4, -1) for a in (w, u, b))
  i, f = logistic(x @ wi + h @ ui + bi), logistic(x @ wf + h @ uf + bf)
  o, g = logistic(x @ wo + h @ uo + bo), np.tanh(x @ wg + h @ ug + bg)
  c = f * c + i * g
  return o * np.tanh(c), c


def gru_step(x, state, w, u, b, b_hn=0.0):
  """Cho et al., 2014, with the reset gate after the product, and reset, update, new as in cuDNN."""
  (h,) = state
  (wr, wu, wn), (ur, uu, un), (br, bu, bn) = (np.split(a, 3, -1) for a in (w, u, b))
  r, z = logistic(x @ wr + h @ ur + br), logistic(x @ wu + h @ uu + bu)
  n = np.tanh(x @ wn + bn + r * (h @ un + b_hn))
  return ((1 - z) * n + z * h,)


RECURRENT = {
  'elman': (Elman(), elman_step), 'lstm': (LSTM(), lstm_step), 'gru': (GRU(), gru_step),
  'gru(recurrent_bias)': (GRU(recurrent_bias=True), gru_step),
}


@pytest.mark.parametrize('name', RECURRENT)
def test_a_recurrent_layer_equals_the_equations_of_its_paper(name):
  layer, step = RECURRENT[name]
  parameters, x, state = draw_normal_inputs(layer)
  y, after = jax.jit(layer.apply)(parameters, x, state)
  weights, x, state = to_float64(parameters['params'], x, state)
  w, u, b = weights['input']['kernel'], weights['recurrent_kernel'], weights['input']['bias']
  bias = [weights['recurrent_bias']] if 'recurrent_bias' in weights else []
  for t in range(LENGTH):
    state = step(x[:, t], state, w, u, b, *bias)
    np.testing.assert_allclose(y[:, t], state[0], atol=1e-5)
  for actual, expected in zip(after, state, strict=True):
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize('forget_bias', [1.0, 2.5, 0.0])
def test_the_forget_bias_sets_the_initial_decay_of_an_lstm(forget_bias):
  layer = LSTM() if forget_bias == 1 else LSTM(forget_bias=forget_bias)  # 1 is the default
  zeros, ones = jnp.zeros((BATCH, 1, WIDTH)), jnp.ones((BATCH, WIDTH))
  parameters = jax.jit(layer.init)(jax.random.key(0), zeros)
  _, (h, c) = jax.jit(layer.apply)(parameters, zeros, (0 * ones, ones))
  np.testing.assert_allclose(c, logistic(forget_bias), atol=1e-6)
  np.testing.assert_allclose(h, 0.5 * np.tanh(logistic(forget_bias)), atol=1e-6)  # output gate 1/2


@pytest.mark.parametrize('gain', [1.0, 1.5])
@pytest.mark.parametrize('layer', [Elman, LSTM])
def test_initial_recurrent_weights_are_orthogonal_or_normal_with_a_gain(layer, gain):
  def initial_kernel(recurrent_init, width=48):
    module = layer(recurrent_init=recurrent_init, recurrent_gain=gain)
    parameters = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 1, width)))
    return np.asarray(parameters['params']['recurrent_kernel'], np.float64)

  kernel = initial_kernel('orthogonal')  # Its rows are orthonormal.
  np.testing.assert_allclose(kernel @ kernel.T, gain**2 * np.eye(len(kernel)), atol=1e-5)
  np.testing.assert_allclose(initial_kernel('normal').var(), gain**2 / len(kernel), rtol=0.1)


@pytest.mark.parametrize(('options', 'message'), [
  ({'recurrent_init': 'uniform'}, "Elman has no recurrent_init 'uniform'; .*orthogonal, normal"),
  ({'recurrent_gain': -1.0}, 'Elman needs recurrent_gain >= 0, not -1.0'),
])
def test_invalid_recurrent_options_raise_an_error(options, message):
  with pytest.raises(ValueError, match=message):
    Elman(**options)


def test_gate_activations_are_accurate_for_large_inputs():
  z = np.array([-1e4, -90, -3, 0, 0.5, 90, 1e4], np.float32)
  sigmoid, tanh = gate_activations(jnp.array([z, z]), ('sigmoid', 'tanh'))
  np.testing.assert_allclose(sigmoid, [0, 0, logistic(-3), 0.5, logistic(0.5), 1, 1], atol=1e-7)
  np.testing.assert_allclose(tanh, np.tanh(z), atol=1e-6)


CELLS = {  # the cell, the numbers of gates and of states, and the number of comparable states
  'elman': (Elman.cell, 1, 1, 1),
  'lstm': (LSTM.cell, 4, 2, 2),
  'gru': (GRU.cell, 3, 1, 1),
  'slstm': (SLSTMCell, 4, 4, 1),
}


def reference_unroll(cell, kernel, input_projection, state, valid, bias):
  """The loop of `unroll`, differentiated by JAX."""
  def step(state, inputs):
    input_projection, valid = inputs
    product = (state[0] @ kernel + bias[None]).reshape(input_projection.shape)
    if cell.splits_input_projection:
      input_projection = split_gates(input_projection)
    after, _ = cell.step(input_projection, product, state)
    after = tuple(jnp.where(valid, new, old) for new, old in zip(after, state, strict=True))
    return after, after[0]

  state, hidden = jax.lax.scan(step, state, (input_projection, valid))
  return hidden, state


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def outputs_and_gradients(loop, cell, compared, arguments, valid):
  """The outputs of a loop, and the gradients of a scalar that depends on all of them."""
  def loss(kernel, bias, input_projection, differentiated, rest):
    hidden, state = loop(cell, kernel, input_projection, (*differentiated, *rest), valid, bias)
    leaves = (hidden, *state[:compared])
    weights = [jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape) for leaf in leaves]
    return sum(jnp.sum(w * leaf) for w, leaf in zip(weights, leaves, strict=True)), (hidden, state)

  return jax.grad(loss, (0, 1, 2, 3), has_aux=True)(*arguments)


def draw_arguments_of_unroll(name, generator, length, dtype, batch_size=BATCH):
  """Returns a kernel, a bias, input projections, states with a gradient, and the other states."""
  _, gates, states, _ = CELLS[name]

  def draw(*shape):
    return jnp.array(generator.normal(0, 0.7, shape), dtype)

  state = tuple(draw(batch_size, WIDTH) for _ in range(states))
  if name == 'slstm':  # n is a sum of positive terms, and m receives no gradient.
    state = (state[0], state[1], 1 + state[2] ** 2, state[3])
  differentiated = min(states, 3)
  return (
    draw(WIDTH, gates * WIDTH), draw(gates * WIDTH), draw(length, batch_size, gates, WIDTH),
    state[:differentiated], state[differentiated:],
  )


@pytest.mark.parametrize('name', CELLS)
@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 99), padding=st.sampled_from([0.0, 0.4, 1.0]))
@example(seed=0, padding=0.0)
def test_the_gradient_of_unroll_equals_that_of_automatic_differentiation(name, seed, padding):
  cell, *_, compared = CELLS[name]
  generator = np.random.default_rng(seed)
  arguments = draw_arguments_of_unroll(name, generator, LENGTH, jnp.float32)
  valid = jnp.array(generator.random((LENGTH, BATCH, 1)) >= padding)
  actual, expected = (
    outputs_and_gradients(loop, cell, compared, arguments, valid)
    for loop in (unroll, reference_unroll)
  )
  for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, e, atol=1e-5 * max(1, np.abs(e).max()))


def test_without_a_mask_all_tokens_are_valid():
  cell, gates, *_ = CELLS['lstm']
  shape = LENGTH, BATCH, gates, WIDTH
  input_projection = jnp.sin(jnp.arange(math.prod(shape))).reshape(shape)
  kernel, state = jnp.ones((WIDTH, gates * WIDTH)), (jnp.ones((BATCH, WIDTH)),) * 2
  all_valid = jnp.ones((LENGTH, BATCH, 1), bool)
  arguments = kernel, jnp.zeros(gates * WIDTH), input_projection, state, ()
  actual, expected = (
    outputs_and_gradients(unroll, cell, 2, arguments, valid) for valid in (None, all_valid)
  )
  for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
    np.testing.assert_allclose(a, e, atol=1e-6)


@pytest.mark.parametrize('name', CELLS)
@pytest.mark.parametrize(
  ('length', 'batch_size', 'masked'),
  [(1, BATCH, False), (1, BATCH, True), (5, BATCH, False), (5, BATCH, True), (5, 1, True)])
def test_the_gradient_of_unroll_is_exact_in_float64(name, length, batch_size, masked):
  cell, *_, compared = CELLS[name]
  generator = np.random.default_rng(length)
  with float64_enabled():
    arguments = draw_arguments_of_unroll(name, generator, length, jnp.float64, batch_size)
    valid = jnp.array(generator.random((length, batch_size, 1)) >= 0.4)
    actual = outputs_and_gradients(unroll, cell, compared, arguments, valid if masked else None)
    every = jnp.ones_like(valid)
    expected = outputs_and_gradients(
      reference_unroll, cell, compared, arguments, valid if masked else every)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
      assert a.dtype == jnp.float64
      np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-9)


def test_a_sequence_without_a_token_leaves_the_state_and_its_gradient_unchanged():
  state = (jnp.ones((BATCH, WIDTH)), jnp.full((BATCH, WIDTH), 2.0))

  def loss(state):
    kernel, projection = jnp.ones((WIDTH, 4 * WIDTH)), jnp.ones((0, BATCH, 4, WIDTH))
    hidden, last = unroll(LSTM.cell, kernel, projection, state)
    assert hidden.shape == (0, BATCH, WIDTH)
    return jnp.sum(last[0]) + 3 * jnp.sum(last[1])

  h, c = jax.grad(loss)(state)
  np.testing.assert_array_equal(h, 1)
  np.testing.assert_array_equal(c, 3)
