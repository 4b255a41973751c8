"""Layers as encoders have them: they read both ways, and padding moves nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from baselines import LAYERS
from baselines.convolution import Convolution
from baselines.deep_convolution import ByteNet
from baselines.recurrent import GRU, LSTM
from baselines.seq2seq import ENDLESS, state_shapes
from tests.support.reference import close, drawn, in_float64
from tests.transformer.layer_laws import close as all_close
from transformer.attention import Attention
from transformer.bidirectional import Bidirectional, Centred, PaddingFirst, bidirectional_of
from transformer.block import Block
from transformer.positions import POSITIONS
from transformer.stack import Stack

CATALOGUE = {name: made() for name, made in LAYERS.items()}
FAST = ('attention', 'gru', 'convolution')
FIXED = [name for name, layer in CATALOGUE.items()
         if state_shapes(layer, 0) == state_shapes(layer, ENDLESS)]


def some(names):
  """The names as parameters of a test; those that are not FAST are for the slow suite."""
  return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in names]


def width_of(layer):
  return layer.width_multiple * -(-8 // layer.width_multiple)


def reader(layer, length):
  """A layer's parameters, an input, and a compiled function: y, gradients for both, of weights."""
  keys = jax.random.split(jax.random.key(0), 2)
  x = jax.random.normal(keys[0], (2, length, width_of(layer)))
  parameters = jax.tree.map(
    lambda p: p + 0.1 * jax.random.normal(keys[1], p.shape), jax.jit(layer.init)(keys[1], x)
  )

  @jax.jit
  def read(x, mask, weight):
    def loss(parameters, x):
      y, _ = layer.apply(parameters, x, mask=mask)
      return jnp.sum(weight * jnp.where(mask[..., None], jnp.sin(y), 0)), y

    gradients, y = jax.grad(loss, (0, 1), has_aux=True)(parameters, x)
    return jnp.where(mask[..., None], y, 0), gradients

  return parameters, np.asarray(x), read


@pytest.mark.parametrize('name', some(LAYERS))
def test_an_encoder_sees_what_follows_and_nothing_under_the_mask(name):
  layer, length = bidirectional_of(CATALOGUE[name]), 9
  parameters, x, read = reader(layer, length)
  weight = np.sin(np.arange(x.size)).reshape(x.shape)
  whole = np.ones(x.shape[:2], bool)

  middle = np.where(np.arange(length)[:, None] == 4, weight, 0)
  moved = np.abs(read(x, whole, middle)[1][1]).sum((0, 2))
  assert moved[3] > 0, 'what comes before the token moves it'
  assert moved[5] > 0, 'what comes after the token moves it'

  mask = whole.copy()
  mask[0, 6:] = mask[1, 2] = False
  y, gradients = read(np.where(mask[..., None], x, 7), mask, weight)
  poisoned = read(np.where(mask[..., None], x, np.nan), mask, weight)
  jax.tree.map(np.testing.assert_array_equal, poisoned, (y, gradients))
  for path, gradient in jax.tree_util.tree_leaves_with_path(gradients[0]):
    assert np.isfinite(gradient).all(), path
    assert np.abs(gradient).max() > 1e-8, path
  alone = layer.apply(parameters, x[:1, :6])[0]
  all_close(y[:1, :6], alone, 'a padded row against the row alone')


def test_every_layer_has_its_form():
  """Once where it is exact, centred where it is a sum over a window, twice otherwise."""
  assert bidirectional_of(CATALOGUE['attention']) == Attention(causal=False)
  assert bidirectional_of(CATALOGUE['lstm']) == Bidirectional(LSTM())
  assert bidirectional_of(Convolution(5)) == Centred(Convolution(5))
  assert bidirectional_of(ByteNet()) == ByteNet(causal=False)
  for ordered in (CATALOGUE['sliding_window'], Attention(positions=POSITIONS['alibi']())):
    assert bidirectional_of(ordered) == Bidirectional(ordered)
  stack = bidirectional_of(Stack((Block(GRU()), Block(Convolution(3))), depth=2))
  forms = [bidirectional_of(GRU()), bidirectional_of(Convolution(3))]
  assert [level.layer for level in stack.levels] == forms * 2
  for name, layer in CATALOGUE.items():
    form = bidirectional_of(layer)
    assert form.width_multiple == layer.width_multiple, name
    assert form.input_layer == layer.input_layer, name
    assert bidirectional_of(form) == form or name == 'interleave', name


def test_a_bidirectional_layer_is_two_readings_joined():
  parameters, x, _ = drawn(Bidirectional(LSTM()), width=4)
  parts = parameters['params']
  past, future = (
    LSTM().apply({'params': parts[name]}, read)[0]
    for name, read in (('forward', x), ('backward', x[:, ::-1]))
  )
  joined = np.concatenate([past, future[:, ::-1]], -1) @ parts['join']['kernel']
  y, state = Bidirectional(LSTM()).apply(parameters, x)
  close(y, joined + parts['join']['bias'][None, None])
  assert state == ()


@pytest.mark.parametrize(('kernel_size', 'dilation'), [(3, 1), (3, 2), (4, 1)])
def test_a_centred_convolution_slides_over_both_sides(kernel_size, dilation):
  layer = Centred(Convolution(kernel_size, dilation))
  parameters, x, _ = drawn(layer, width=2)
  (kernel, bias), x64 = in_float64(
    [parameters['params']['layer'][name] for name in ('kernel', 'bias')], x
  )
  expected, ahead = np.zeros(x.shape) + bias, (kernel_size - 1) * dilation // 2
  for t in range(x.shape[1]):
    for j in range(kernel_size):
      if 0 <= (place := t + ahead - (kernel_size - 1 - j) * dilation) < x.shape[1]:
        expected[:, t] += x64[:, place] @ kernel[j]
  close(layer.apply(parameters, x)[0], expected)


@pytest.mark.parametrize('name', some(FIXED))
def test_what_is_read_after_padding_first_is_as_after_the_row_alone(name):
  layer = PaddingFirst(CATALOGUE[name])
  parameters, x, _ = drawn(layer, width=width_of(layer))
  mask = np.array([[1, 1, 1, 1, 0, 0], [1, 0, 1, 1, 1, 0]], bool)
  y, state = layer.apply(parameters, x, mask=mask)
  later, _ = layer.apply(parameters, x[:, :2], state)
  for row, kept in enumerate(mask):
    this = slice(row, row + 1)
    alone, after = layer.apply(parameters, x[this, kept])
    all_close(y[this, kept], alone, 'outputs', tolerance=1e-4)
    all_close(later[this], layer.apply(parameters, x[this, :2], after)[0], 'later', 1e-4)


def test_only_a_window_can_be_centred():
  with pytest.raises(ValueError, match='GRU cannot be centred'):
    Centred(GRU())
