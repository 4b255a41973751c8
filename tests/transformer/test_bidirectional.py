"""Encoder layers depend on earlier and later tokens, and not on padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from baselines import LAYERS
from baselines.convolution import Convolution
from baselines.deep_convolution import ByteNet
from baselines.recurrent import GRU, LSTM
from baselines.seq2seq import UNBOUNDED_CAPACITY, state_shapes
from tests.support.reference import assert_close, draw_normal_inputs, to_float64
from transformer.attention import Attention
from transformer.bidirectional import Bidirectional, Centred, PaddingFirst, make_bidirectional
from transformer.block import Block
from transformer.laws import expect_close
from transformer.positions import POSITIONS
from transformer.stack import Stack

CATALOGUE = {name: made() for name, made in LAYERS.items()}
FAST = ('attention', 'gru', 'convolution')
FIXED = [name for name, layer in CATALOGUE.items()
         if state_shapes(layer, 0) == state_shapes(layer, UNBOUNDED_CAPACITY)]


def mark_slow(names):
  """Test parameters for layer names, with the mark `slow` for all that are not FAST."""
  return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in names]


def valid_width(layer):
  return layer.required_width_divisor * -(-8 // layer.required_width_divisor)


def layer_gradient_function(layer, length):
  """Returns parameters, an input, and a compiled function that returns outputs and gradients."""
  keys = jax.random.split(jax.random.key(0), 2)
  x = jax.random.normal(keys[0], (2, length, valid_width(layer)))
  parameters = jax.tree.map(
    lambda p: p + 0.1 * jax.random.normal(keys[1], p.shape), jax.jit(layer.init)(keys[1], x)
  )

  @jax.jit
  def outputs_and_gradients(x, mask, weight):
    def loss(parameters, x):
      y, _ = layer.apply(parameters, x, mask=mask)
      return jnp.sum(weight * jnp.where(mask[..., None], jnp.sin(y), 0)), y

    gradients, y = jax.grad(loss, (0, 1), has_aux=True)(parameters, x)
    return jnp.where(mask[..., None], y, 0), gradients

  return parameters, np.asarray(x), outputs_and_gradients


@pytest.mark.parametrize('name', mark_slow(LAYERS))
def test_encoder_outputs_depend_on_later_tokens_but_not_on_padding(name):
  layer, length = make_bidirectional(CATALOGUE[name]), 9
  parameters, x, outputs_and_gradients = layer_gradient_function(layer, length)
  weight = np.sin(np.arange(x.size)).reshape(x.shape)
  all_valid = np.ones(x.shape[:2], bool)

  middle = np.where(np.arange(length)[:, None] == 4, weight, 0)
  gradient = np.abs(outputs_and_gradients(x, all_valid, middle)[1][1]).sum((0, 2))
  assert gradient[3] > 0, 'the output does not depend on the previous token'
  assert gradient[5] > 0, 'the output does not depend on the next token'

  mask = all_valid.copy()
  mask[0, 6:] = mask[1, 2] = False
  y, gradients = outputs_and_gradients(np.where(mask[..., None], x, 7), mask, weight)
  poisoned = outputs_and_gradients(np.where(mask[..., None], x, np.nan), mask, weight)
  jax.tree.map(np.testing.assert_array_equal, poisoned, (y, gradients))
  for path, gradient in jax.tree_util.tree_leaves_with_path(gradients[0]):
    assert np.isfinite(gradient).all(), path
    assert np.abs(gradient).max() > 1e-8, path
  unpadded = layer.apply(parameters, x[:1, :6])[0]
  expect_close(y[:1, :6], unpadded, 'padding after a row changes its outputs')


def test_make_bidirectional_selects_the_form_of_each_layer():
  """Forms are non-causal attention, centred convolutions, and two directions for all others."""
  assert make_bidirectional(CATALOGUE['attention']) == Attention(causal=False)
  assert make_bidirectional(CATALOGUE['lstm']) == Bidirectional(LSTM())
  assert make_bidirectional(Convolution(5)) == Centred(Convolution(5))
  assert make_bidirectional(ByteNet()) == ByteNet(causal=False)
  for ordered in (CATALOGUE['sliding_window'], Attention(positions=POSITIONS['alibi']())):
    assert make_bidirectional(ordered) == Bidirectional(ordered)
  stack = make_bidirectional(Stack((Block(GRU()), Block(Convolution(3))), depth=2))
  forms = [make_bidirectional(GRU()), make_bidirectional(Convolution(3))]
  assert [level.layer for level in stack.all_layers] == forms * 2
  for name, layer in CATALOGUE.items():
    form = make_bidirectional(layer)
    assert form.required_width_divisor == layer.required_width_divisor, name
    assert form.input_layer == layer.input_layer, name
    assert make_bidirectional(form) == form or name == 'interleave', name


def test_bidirectional_combines_forward_and_backward_outputs():
  parameters, x, _ = draw_normal_inputs(Bidirectional(LSTM()), width=4)
  parts = parameters['params']
  past, future = (
    LSTM().apply({'params': parts[name]}, inputs)[0]
    for name, inputs in (('forward', x), ('backward', x[:, ::-1]))
  )
  joined = np.concatenate([past, future[:, ::-1]], -1) @ parts['join']['kernel']
  y, state = Bidirectional(LSTM()).apply(parameters, x)
  assert_close(y, joined + parts['join']['bias'][None, None])
  assert state == ()


@pytest.mark.parametrize(('kernel_size', 'dilation'), [(3, 1), (3, 2), (4, 1)])
def test_centred_convolution_matches_its_equation(kernel_size, dilation):
  layer = Centred(Convolution(kernel_size, dilation))
  parameters, x, _ = draw_normal_inputs(layer, width=2)
  (kernel, bias), x64 = to_float64(
    [parameters['params']['layer'][name] for name in ('kernel', 'bias')], x
  )
  expected, shift = np.zeros(x.shape) + bias, (kernel_size - 1) * dilation // 2
  for t in range(x.shape[1]):
    for j in range(kernel_size):
      if 0 <= (index := t + shift - (kernel_size - 1 - j) * dilation) < x.shape[1]:
        expected[:, t] += x64[:, index] @ kernel[j]
  assert_close(layer.apply(parameters, x)[0], expected)


@pytest.mark.parametrize('name', mark_slow(FIXED))
def test_padding_first_ends_with_the_state_of_the_unpadded_row(name):
  layer = PaddingFirst(CATALOGUE[name])
  parameters, x, _ = draw_normal_inputs(layer, width=valid_width(layer))
  mask = np.array([[1, 1, 1, 1, 0, 0], [1, 0, 1, 1, 1, 0]], bool)
  y, state = layer.apply(parameters, x, mask=mask)
  next_outputs, _ = layer.apply(parameters, x[:, :2], state)
  for index, valid in enumerate(mask):
    row = slice(index, index + 1)
    unpadded, final_state = layer.apply(parameters, x[row, valid])
    expect_close(y[row, valid], unpadded, 'outputs', tolerance=1e-4)
    expected = layer.apply(parameters, x[row, :2], final_state)[0]
    expect_close(next_outputs[row], expected, 'outputs after the state', tolerance=1e-4)


def test_layers_without_a_window_cannot_be_centred():
  with pytest.raises(ValueError, match='GRU cannot be centred'):
    Centred(GRU())
