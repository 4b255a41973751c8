"""Additive attention inside a recurrence: at every step the cell first looks where to read.

  e_tj  = v . tanh(W s_{t-1} + U h_j)          how well place j of the source suits what is known
  c_t   = sum_j softmax_j(e_tj) h_j            what is read there
  s_t   = cell(W_x x_t + C c_t + b, s_{t-1})   x_t stands for the token y_{t-1}
  s_0   = tanh(W_s h_1)

(Bahdanau, Cho and Bengio 2015, "Neural machine translation by jointly learning to align and
translate", section 3 and appendix A.1.2.) Where to look depends on the state that the last look
has changed, so that this is one loop over time with both in it, while U h_j is projected once.

Not as in the paper: h_j is the encoder's output, a linear map of the forward and the backward
reading to the width of the model, where the paper has both side by side and starts from the
backward one alone; the GRU resets after its product, as here everywhere; any recurrent cell fits.
The embeddings and the maxout layer around it belong to the model, not to the layer.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from baselines.recurrent import GRU
from transformer.layer import SequenceLayer, masked

HIDDEN = -1e30  # the score of a place that may not be looked at, finite so that gradients are


class Annotations(NamedTuple):
  """A source of S tokens, as the attention sees it."""

  key: jax.Array  # [B, S, D], U h_j
  value: jax.Array  # [B, S, D], h_j
  valid: jax.Array  # [B, S]


class Annotate(nn.Module):
  """What an encoder read, and the states [B, D] that a cell starts from."""

  num_states: int = 1

  @nn.compact
  def __call__(self, memory, mask=None):  # [B, S, D], [B, S]
    memory, (batch_size, _, width) = masked(memory, mask), memory.shape
    valid = jnp.ones(memory.shape[:2], bool) if mask is None else mask
    key = nn.Dense(width, use_bias=False, dtype=memory.dtype, name='key')(memory)
    # There the backward reading has seen all of the source.
    first = memory[jnp.arange(batch_size), jnp.argmax(valid, 1)]
    start = nn.Dense(self.num_states * width, use_bias=False, dtype=memory.dtype, name='start')
    start = jnp.tanh(start(first).astype(jnp.float32))
    return Annotations(key, memory, valid), tuple(jnp.split(start, self.num_states, 1))


@functools.partial(jax.checkpoint, prevent_cse=False)  # a loop needs no such protection
def look(annotations: Annotations, query: jax.Array, score: jax.Array):
  """The weights [B, S] of a query W s [B, D], and what is read [B, D]; 0 where there is nothing.

  On the way back it is computed again, which is faster than to keep [B, S, D] of every step.
  """
  key, value, valid = annotations
  energy = jnp.einsum('BSD,D->BS', jnp.tanh(query[:, None] + key), score)
  weight = jax.nn.softmax(jnp.where(valid, energy, HIDDEN), -1)
  weight = jnp.where(valid, weight, 0)
  return weight, jnp.einsum('BS,BSD->BD', weight, value, preferred_element_type=jnp.float32)


def multiply(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """A product in the kernel's dtype, summed in float32."""
  return jnp.dot(x.astype(kernel.dtype), kernel, preferred_element_type=jnp.float32)


class AdditiveAttention(SequenceLayer):
  """A recurrent layer whose cell also reads a source; its state is that source and the cell's."""

  layer: SequenceLayer = GRU(parent=None)  # whose cell, gates and bias these are

  def __post_init__(self):
    super().__post_init__()
    if not hasattr(self.layer, 'cell'):
      kind = type(self.layer).__name__
      raise ValueError(f'additive attention stands inside a cell such as GRU or LSTM, not {kind}')

  @property
  def source_projection(self):
    """The projection of the source, and the cell's first state."""
    return Annotate(self.layer.num_states, parent=None)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """A source that nobody has read, and the cell's state."""
    places = jnp.zeros((batch_size, capacity, width), dtype)
    annotations = Annotations(places, places, jnp.zeros((batch_size, capacity), bool))
    return annotations, self.layer.initial_state(batch_size, capacity, width, dtype)

  def _kernels(self, width, dtype):
    def kernel(name, columns, initial):
      return self.param(f'{name}_kernel', initial, (width, columns)).astype(dtype)

    dense, columns = nn.initializers.lecun_normal(), self.layer.gates * width
    return (
      kernel('query', width, dense),
      kernel('context', columns, dense),
      kernel('recurrent', columns, nn.initializers.orthogonal()),
    )

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    (batch_size, length, width), gates = x.shape, self.layer.gates
    if state is None:
      state = self.initial_state(batch_size, 1, width, x.dtype)
    annotations, hidden = state
    # A loop over time, so that the time comes first.
    x = masked(x, mask).swapaxes(0, 1)
    project = nn.Dense(gates * width, bias_init=self.layer.bias, dtype=x.dtype, name='input')
    input_projection = project(x).astype(jnp.float32).reshape(length, batch_size, gates, width)
    query, context, recurrent = self._kernels(width, x.dtype)
    score = self.param('score_kernel', nn.initializers.normal(width**-0.5), (width,))
    bias = self.layer.product_bias(self, width)
    valid = jnp.ones((length, batch_size, 1), bool) if mask is None else mask.T[..., None]

    def step(hidden, now):
      input_projection, valid = now
      weight, read = look(annotations, multiply(hidden[0], query), score)
      input_projection += multiply(read, context).reshape(input_projection.shape)
      product = multiply(hidden[0], recurrent)
      product = product if bias is None else product + bias[None]
      product = product.reshape(input_projection.shape)
      after, _ = self.layer.cell.step(input_projection, product, hidden)
      hidden = tuple(jnp.where(valid, *pair) for pair in zip(after, hidden, strict=True))
      return hidden, (hidden[0], weight)

    hidden, (y, weight) = jax.lax.scan(step, hidden, (input_projection, valid))
    if self.is_mutable_collection('intermediates') and not self.is_initializing():
      self.sow('intermediates', 'weights', weight.swapaxes(0, 1)[:, None])
    return y.swapaxes(0, 1).astype(x.dtype), (annotations, hidden)
