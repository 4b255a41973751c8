"""Additive attention inside a recurrent layer, which attends to the source at every step.

  e_tj  = v . tanh(W s_{t-1} + U h_j)          score of the source token j
  c_t   = sum_j softmax_j(e_tj) h_j            context
  s_t   = cell(W_x x_t + C c_t + b, s_{t-1})   x_t is the embedding of the token y_{t-1}
  s_0   = tanh(W_s h_1)

The source is Bahdanau, Cho and Bengio 2015, "Neural machine translation by jointly learning to
align and translate", section 3 and appendix A.1.2. The scores depend on the state that the previous
context has changed, so attention and recurrence share a single loop over time. Only U h_j is
projected once, before the loop.

There are three differences from the paper. Here h_j is the encoder output, a linear map of the
forward and the backward states to the width of the model, whereas the paper concatenates both
states and computes s_0 from the backward state alone. The GRU applies its reset gate after the
product with U, as everywhere in this package. Any recurrent cell can replace the GRU. The
embeddings and the maxout layer of the paper belong to the model, not to this layer.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from baselines.recurrent import GRU
from baselines.unroll import dot_with_float32_accumulation, split_gates
from transformer.dense import Dense
from transformer.layer import SequenceLayer, apply_mask

MASKED_SCORE = -1e30  # finite, so that gradients are finite


class Annotations(NamedTuple):
  """The encoder outputs h_j of S source tokens and the attention keys U h_j computed from them.

  Bahdanau et al. call the encoder outputs annotations.
  """

  key: jax.Array  # [B, S, D], U h_j
  value: jax.Array  # [B, S, D], h_j
  valid: jax.Array  # [B, S]


class InitialAttentionState(nn.Module):
  """Maps encoder outputs to annotations and to the initial state of the recurrent cell.

  The state is a tuple of `num_states` arrays [B, D].
  """

  num_states: int = 1

  @nn.compact
  def __call__(self, encoder_outputs, mask=None):  # [B, S, D], [B, S]
    encoder_outputs = apply_mask(encoder_outputs, mask)
    batch_size, _, width = encoder_outputs.shape
    valid = jnp.ones(encoder_outputs.shape[:2], bool) if mask is None else mask
    key = Dense(width, use_bias=False, dtype=encoder_outputs.dtype, name='key')(encoder_outputs)
    # The backward direction of the encoder makes its first output depend on all source tokens.
    first = encoder_outputs[jnp.arange(batch_size), jnp.argmax(valid, 1)]
    start = Dense(self.num_states * width, use_bias=False, dtype=first.dtype, name='start')
    start = jnp.tanh(start(first).astype(jnp.float32))
    return Annotations(key, encoder_outputs, valid), tuple(jnp.split(start, self.num_states, 1))


# Inside `lax.scan`, `jax.checkpoint` needs no protection from common subexpression elimination.
@functools.partial(jax.checkpoint, prevent_cse=False)
def additive_attention(annotations: Annotations, query: jax.Array, score_kernel: jax.Array):
  """Computes additive attention of a single query per sequence.

  The backward pass recomputes the scores, which is faster than storing [B, S, D] for every step.

  Args:
    annotations: the annotations of S source tokens.
    query: the projected state W s [B, D].
    score_kernel: v [D].

  Returns:
    The attention weights [B, S] and the context [B, D], both 0 without valid source tokens.

  """
  key, value, valid = annotations
  energy = jnp.einsum('BSD,D->BS', jnp.tanh(query[:, None] + key), score_kernel)
  weight = jax.nn.softmax(jnp.where(valid, energy, MASKED_SCORE), -1)
  weight = jnp.where(valid, weight, 0)
  return weight, jnp.einsum('BS,BSD->BD', weight, value, preferred_element_type=jnp.float32)


class AdditiveAttention(SequenceLayer):
  """A recurrent layer with additive attention to the source at every step.

  The state is a pair of the annotations of the source and the state of the recurrent cell.
  """

  layer: SequenceLayer = GRU(parent=None)  # provides the recurrent cell, its gates and its bias

  def __post_init__(self):
    super().__post_init__()
    if not hasattr(self.layer, 'cell'):
      kind = type(self.layer).__name__
      raise ValueError(f'additive attention needs a layer such as GRU or LSTM, not {kind}')

  @property
  def source_projection(self):
    return InitialAttentionState(self.layer.num_states, parent=None)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Returns encoder outputs of zeros, all masked, and the initial state of the recurrent cell."""
    zeros = jnp.zeros((batch_size, capacity, width), dtype)
    annotations = Annotations(zeros, zeros, jnp.zeros((batch_size, capacity), bool))
    return annotations, self.layer.initial_state(batch_size, capacity, width, dtype)

  def _create_attention_and_recurrent_kernels(self, width, dtype):
    def kernel_parameter(name, columns, initializer):
      return self.param(f'{name}_kernel', initializer, (width, columns)).astype(dtype)

    dense, columns = nn.initializers.lecun_normal(), self.layer.gates * width
    return (
      kernel_parameter('query', width, dense),
      kernel_parameter('context', columns, dense),
      kernel_parameter('recurrent', columns, nn.initializers.orthogonal()),
    )

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    (batch_size, length, width), gates = x.shape, self.layer.gates
    if state is None:
      state = self.initial_state(batch_size, 1, width, x.dtype)
    annotations, hidden = state
    # Time becomes the first axis, because `lax.scan` iterates over the first axis.
    x = apply_mask(x, mask).swapaxes(0, 1)
    project = Dense(
      gates * width, bias_init=self.layer.bias_initializer, dtype=x.dtype, name='input'
    )
    input_projection = project(x).astype(jnp.float32).reshape(length, batch_size, gates, width)
    query, context, recurrent = self._create_attention_and_recurrent_kernels(width, x.dtype)
    score = self.param('score_kernel', nn.initializers.normal(width**-0.5), (width,))
    bias = self.layer.recurrent_projection_bias(self, width)
    valid = jnp.ones((length, batch_size, 1), bool) if mask is None else mask.T[..., None]

    def attend_and_update_hidden(hidden, inputs):
      input_projection, valid = inputs
      projected_state = dot_with_float32_accumulation(hidden[0], query)
      weight, attended = additive_attention(annotations, projected_state, score)
      projected_context = dot_with_float32_accumulation(attended, context)
      input_projection += projected_context.reshape(input_projection.shape)
      product = dot_with_float32_accumulation(hidden[0], recurrent)
      product = product if bias is None else product + bias[None]
      product = product.reshape(input_projection.shape)
      if self.layer.cell.splits_input_projection:
        input_projection = split_gates(input_projection)
      after, _ = self.layer.cell.step(input_projection, product, hidden)
      hidden = tuple(jnp.where(valid, *pair) for pair in zip(after, hidden, strict=True))
      return hidden, (hidden[0], weight)

    hidden, (y, weight) = jax.lax.scan(
      attend_and_update_hidden, hidden, (input_projection, valid)
    )
    if self.is_mutable_collection('intermediates') and not self.is_initializing():
      self.sow('intermediates', 'weights', weight.swapaxes(0, 1)[:, None])
    return y.swapaxes(0, 1).astype(x.dtype), (annotations, hidden)
