"""Recurrent layers, against Flax's loop around its cell and PyTorch's layers."""

import functools

import jax.numpy as jnp
from flax import linen as nn

from baselines.recurrent import GRU, LSTM
from experiments.speed import pytorch
from experiments.speed.contest import Contest, Rival, contest
from experiments.speed.contests.numbers import of_layer


def _recurrent(layer, cell, torch_rnn, adapt_flax, seed, batch, length, width, gates) -> Contest:
  """A recurrent layer against Flax's loop around its cell and PyTorch's layer."""
  ours, arguments = of_layer(layer, seed, (batch, length, width))
  rnn = nn.RNN(cell)

  def adapt_torch(parameters, x):
    weights = {
      'weight_ih_l0': parameters['input']['kernel'].T,
      'weight_hh_l0': parameters['recurrent_kernel'].T,
      'bias_ih_l0': parameters['input']['bias'],
      'bias_hh_l0': jnp.zeros_like(parameters['input']['bias']),
    }
    return weights, x

  def loop(parameters, x):
    return rnn.apply({'params': {'cell': parameters}}, x)

  return contest(
    ours,
    arguments,
    (None, 0, 0),
    {
      f'flax RNN({type(cell).__name__})': Rival(loop, adapt_flax),
      f'torch.nn.{torch_rnn}': Rival(
        functools.partial(pytorch.rnn, torch_rnn), adapt_torch, enter=pytorch.enter
      ),
    },
    work=2 * 2 * batch * length * gates * width**2,
  )


def lstm(seed: int, batch: int, length: int, width: int) -> Contest:
  """The LSTM layer."""
  def adapt(parameters, x):
    kernels = jnp.split(parameters['input']['kernel'], 4, 1)
    recurrent = jnp.split(parameters['recurrent_kernel'], 4, 1)
    biases = jnp.split(parameters['input']['bias'], 4)
    own = {f'i{gate}': {'kernel': k} for gate, k in zip('ifgo', kernels, strict=True)}
    for gate, kernel, bias in zip('ifgo', recurrent, biases, strict=True):
      own[f'h{gate}'] = {'kernel': kernel, 'bias': bias}
    return own, x

  cell = nn.OptimizedLSTMCell(width, parent=None)
  return _recurrent(LSTM(), cell, 'LSTM', adapt, seed, batch, length, width, gates=4)


def gru(seed: int, batch: int, length: int, width: int) -> Contest:
  """The GRU layer."""
  def adapt(parameters, x):
    kernels = jnp.split(parameters['input']['kernel'], 3, 1)
    recurrent = jnp.split(parameters['recurrent_kernel'], 3, 1)
    biases = jnp.split(parameters['input']['bias'], 3)
    own = {
      f'i{gate}': {'kernel': kernel, 'bias': bias}
      for gate, kernel, bias in zip('rzn', kernels, biases, strict=True)
    }
    own |= {f'h{gate}': {'kernel': k} for gate, k in zip('rzn', recurrent, strict=True)}
    own['hn']['bias'] = jnp.zeros_like(biases[2])
    return own, x

  cell = nn.GRUCell(width, parent=None)
  return _recurrent(GRU(), cell, 'GRU', adapt, seed, batch, length, width, gates=3)
