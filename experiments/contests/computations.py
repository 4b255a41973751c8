"""What is compared for speed: a computation of ours, and others' forms of it on the same numbers.

Each function draws its numbers from a seed and says how others lay them out. A rival is taken as
its users take it, in the layout in which it is fastest; laying out is not timed.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from baselines.convolution import Convolution
from baselines.delta_scans import delta_scan
from baselines.matrix_scans import outer_product_scan
from baselines.recurrent import GRU, LSTM
from baselines.scans import linear_scan
from experiments.contests import decoders, generation, pytorch
from experiments.contests.contest import Contest, Rival, contest
from transformer.attention import attend
from transformer.dot_product import Visible

OPEN = 4.0  # added to a gate, so that what it lets through lasts for some fifty steps


def normal(seed: int, *shapes: tuple[int, ...]) -> tuple[jax.Array, ...]:
  """Arrays of these shapes, all from one seed."""
  def draw(key):
    keys = jax.random.split(key, len(shapes))
    return tuple(jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))

  return jax.jit(draw)(jax.random.key(seed))


def _layer(layer, seed: int, shape: tuple[int, ...]):
  """A layer as a function of its parameters and x, and both."""
  (x,) = normal(seed, shape)
  parameters = jax.jit(layer.init)(jax.random.key(seed), x)['params']
  return lambda parameters, x: layer.apply({'params': parameters}, x)[0], (parameters, x)


def _recurrent(layer, cell, torch_rnn, adapt_flax, seed, batch, length, width, gates) -> Contest:
  """A recurrent layer against Flax's loop around its cell and PyTorch's layer."""
  ours, arguments = _layer(layer, seed, (batch, length, width))
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


def attention(seed: int, batch: int, length: int, heads: int, head_width: int) -> Contest:
  """Causal attention, from queries, keys and values to answers."""
  shape = (batch, heads, length, head_width)
  query, key, value = normal(seed, shape, shape, shape)

  def heads_first(query, key, value):  # [B, H, T, K]
    return query[:, :, 0], key.swapaxes(2, 3), value.swapaxes(2, 3)

  def time_first(query, key, value):  # [B, T, H, K]
    return tuple(x.swapaxes(1, 2) for x in heads_first(query, key, value))

  return contest(
    lambda query, key, value: attend(query, key, value, Visible()),
    (query[:, :, None], key.swapaxes(2, 3), value.swapaxes(2, 3)),
    (0, 0, 0, 0),
    {
      'jax.nn.dot_product_attention': Rival(
        functools.partial(jax.nn.dot_product_attention, is_causal=True),
        time_first, lambda y: y[:, :, 0].swapaxes(1, 2),
      ),
      'torch fused attention': Rival(
        pytorch.attention, heads_first, lambda y: y[:, :, 0], pytorch.enter
      ),
    },
    work=2 * batch * heads * length**2 * head_width,  # two products, half of each is masked
  )


def recurrence(seed: int, batch: int, length: int, width: int) -> Contest:
  """The diagonal linear recurrence, time first; as it is first written, batch first."""
  gate, drive = normal(seed, *[(length, batch, width)] * 2)

  def plain(decay, drive):
    def step(state, now):
      state = now[0] * state + now[1]
      return state, state

    by_time = decay.swapaxes(0, 1), drive.swapaxes(0, 1)
    return jax.lax.scan(step, jnp.zeros_like(drive[:, 0]), by_time)[1].swapaxes(0, 1)

  def swap(*arrays):
    return tuple(x.swapaxes(0, 1) for x in arrays)

  return contest(
    lambda decay, drive: linear_scan(decay, drive, jnp.zeros_like(drive[0]))[0],
    (jax.nn.sigmoid(gate), drive),
    (1, 1, 1),
    {
      'lax.scan, batch first': Rival(
        plain, swap, lambda y: y.swapaxes(0, 1), batch_axes=(0, 0, 0)
      ),
    },
  )


def ssd(seed: int, batch: int, length: int, heads: int, head_width: int) -> Contest:
  """Linear attention that decays by a number for each head: in chunks, and step by step."""
  shape = (batch, length, heads, head_width)
  query, key, value, gate = normal(seed, *[shape] * 3, shape[:3])

  def scan(form):
    def call(query, *arrays):
      memory = jnp.zeros((len(query), heads, head_width, head_width))
      return outer_product_scan(query, *arrays, memory, form=form)[0]

    return call

  return contest(
    scan('auto'),
    (query, key, value, jax.nn.log_sigmoid(gate + OPEN)),
    (0,) * 5,
    {'the recurrent form': Rival(scan('recurrent'))},
  )


def gated_delta_rule(seed: int, batch: int, length: int, heads: int, head_width: int) -> Contest:
  """The gated delta rule: in chunks, and step by step."""
  shape = (batch, length, heads, head_width)
  query, key, value, beta, gate = normal(seed, *[shape] * 3, *[shape[:3]] * 2)
  key /= jnp.linalg.norm(key, axis=-1, keepdims=True)

  def rule(form):
    def call(query, *arrays):
      memory = jnp.zeros((len(query), heads, head_width, head_width))
      return delta_scan(query, *arrays, memory, form=form)[0]

    return call

  return contest(
    rule('auto'),
    (query, key, value, jax.nn.sigmoid(beta), jax.nn.log_sigmoid(gate + OPEN)),
    (0,) * 6,
    {'the recurrent form': Rival(rule('recurrent'))},
  )


def convolution(
  seed: int, batch: int, length: int, width: int, kernel: int, dilation: int, steps: int = 0
) -> Contest:
  """A causal dilated convolution, by itself or in so many gradient steps of one loop."""
  ours, arguments = _layer(Convolution(kernel, dilation), seed, (batch, length, width))
  past = (kernel - 1) * dilation

  def plain(parameters, x):
    y = jax.lax.conv_general_dilated(
      x, parameters['kernel'], (1,), [(past, 0)], rhs_dilation=(dilation,),
      dimension_numbers=('NWC', 'WIO', 'NWC'),
    )
    return y + parameters['bias'][None, None]

  def adapt(parameters, x):
    return parameters['kernel'].transpose(2, 1, 0), parameters['bias'], x.swapaxes(1, 2)

  rivals = {
    'lax.conv': Rival(plain),
    'torch conv1d': Rival(
      functools.partial(pytorch.convolution, dilation),
      adapt, lambda y: y.swapaxes(1, 2), pytorch.enter,
    ),
  }
  if steps and jax.default_backend() == 'cpu':
    del rivals['lax.conv']  # some fifty times slower in a loop: nobody would wait for it
  work = 2 * batch * length * kernel * width**2
  return contest(ours, arguments, (None, 0, 0), rivals, work, steps)


CONTESTS = {
  'lstm': lstm,
  'gru': gru,
  'attention': attention,
  'recurrence': recurrence,
  'ssd': ssd,
  'gated_delta_rule': gated_delta_rule,
  'convolution': convolution,
  'decoder': decoders.decoder,
  'generation': generation.generation,
}
