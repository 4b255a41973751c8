"""Dot-product attention to a source, after a recurrent layer or after each convolution.

  global    y_t = tanh(W_c [c_t; h_t]),  c_t = sum_s softmax_s(score(h_t, m_s)) m_s
            score: h_t . W_a m_s ('general') or h_t . m_s ('dot'), not divided by sqrt(D)
                                       (Luong, Pham and Manning 2015, equations 5, 7 and 8)
  ConvS2S   at every level l:  h = glu(conv(x)),  d_t = W_l h_t + b_l + x_t,
            c_t = sqrt(S) sum_s softmax_s(d_t . m_s / sqrt(D)) m_s,  y = sqrt(1/2) (x + h + c)
                                       (Gehring et al. 2017, sections 3.3 and 3.5)

The encoder outputs m of the S source tokens are attended to with a single head.

There are four differences from the papers. The third score of Luong et al. is that of Bahdanau et
al., implemented in `baselines.additive_attention`. Input feeding, h~ as an input of the next step,
is omitted because it would turn a computation that is parallel over time into a loop. ConvS2S adds
the target embedding to d and the source embedding to the values. A layer here only has access to
its input, which replaces the target embedding, and to the encoder output, without the source
embedding. ConvS2S does not divide by sqrt(D), because its embeddings have a standard deviation of
0.1, which keeps d . m small. Here the standard deviation is about 1, so without the division the
initial softmax would be nearly one-hot, with hardly any gradient.
"""

import math

import jax.numpy as jnp
from flax import linen as nn

from baselines.deep_convolution import ConvS2S
from transformer.attention import attend, sow_weights
from transformer.cross_attention import ProjectedSource
from transformer.dense import Dense
from transformer.dot_product import AttentionMask
from transformer.layer import SequenceLayer, apply_mask
from transformer.options import require_one_of

SCORES = ('general', 'dot')


class SourceKeysAndValues(nn.Module):
  """Keys and values of a single attention head, computed from encoder outputs.

  The values are the encoder outputs. The keys are the encoder outputs for the score 'dot', and a
  linear projection of them for the score 'general'.
  """

  score: str = 'dot'

  @nn.compact
  def __call__(self, encoder_outputs, mask=None) -> ProjectedSource:  # [B, S, D], [B, S]
    key = encoder_outputs = apply_mask(encoder_outputs, mask)
    if self.score == 'general':
      key = Dense(key.shape[2], use_bias=False, dtype=key.dtype, name='key')(key)
    valid = jnp.ones(encoder_outputs.shape[:2], bool) if mask is None else mask
    return ProjectedSource(*(x.swapaxes(1, 2)[:, None] for x in (key, encoder_outputs)), valid)


def fully_masked_source(batch_size: int, source_length: int, width: int, dtype) -> ProjectedSource:
  """Returns an initial state, with keys and values of a source whose tokens are all masked.

  Args:
    batch_size: B, the number of sequences.
    source_length: S, the number of source tokens.
    width: D, the width of keys and values.
    dtype: the dtype of keys and values.

  Returns:
    Keys and values of zeros, [B, 1, D, S], with a mask [B, S] that is false everywhere.

  """
  zeros = jnp.zeros((batch_size, 1, width, source_length), dtype)
  return ProjectedSource(zeros, zeros, jnp.zeros((batch_size, source_length), bool))


def attend_to_source(module: nn.Module, query, source: ProjectedSource):
  """Attends to a source with a single head, and stores the attention weights as intermediates.

  Args:
    module: the module in whose `intermediates` the attention weights are stored.
    query: [B, T, D]; its products with the keys are divided by sqrt(D).
    source: keys and values [B, 1, D, S] and their mask.

  Returns:
    The weighted means of the values, [B, T, D], or 0 for a source without valid tokens.

  """
  dtype, attention_mask = query.dtype, AttentionMask(valid=source.valid, causal=False)
  query = query[:, None, None]
  key, value = source.key.astype(dtype), source.value.astype(dtype)
  sow_weights(module, query, key, attention_mask)
  return attend(query, key, value, attention_mask)[:, 0, 0]


class GlobalAttention(SequenceLayer):
  """Luong attention to the source, combined with the output of a recurrent layer."""

  score: str = 'general'

  def __post_init__(self):
    super().__post_init__()
    require_one_of(self, 'score', SCORES)

  @property
  def receptive_field(self):
    return 1

  @property
  def source_projection(self):
    return SourceKeysAndValues(self.score, parent=None)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    return fully_masked_source(batch_size, capacity, width, dtype)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    (batch_size, _, width), x = x.shape, apply_mask(x, mask)
    source = fully_masked_source(batch_size, 1, width, x.dtype) if state is None else state
    # Luong attention does not divide the scores by sqrt(D), unlike `attend_to_source`.
    context = attend_to_source(self, math.sqrt(width) * x, source)
    y = jnp.concatenate([context, x], -1)
    return jnp.tanh(Dense(width, use_bias=False, dtype=x.dtype, name='combine')(y)), source


class AttentiveConvS2S(ConvS2S):
  """The ConvS2S decoder, a stack of gated convolutions, each followed by attention to the source.

  The state is a pair of the tuple of convolution states and the source.
  """

  @property
  def source_projection(self):
    return InitialDecoderState(self.clone(parent=None), parent=None)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    past = super().initial_state(batch_size, capacity, width, dtype)
    return past, fully_masked_source(batch_size, capacity, width, dtype)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, _, width = x.shape
    past, source = self.initial_state(batch_size, 1, width, x.dtype) if state is None else state
    source_length = source.valid.sum(-1)[:, None, None].astype(x.dtype)
    x, latest = apply_mask(x, mask), []
    for level, before in enumerate(past):
      (template,) = self.convolutions_of_block(level)
      convolution = template.copy(name=f'level_{level}_convolution')
      h, after = convolution(x, before, mask=mask, train=train)
      query = x + Dense(width, dtype=x.dtype, name=f'level_{level}_query')(h)
      # A mean of S independent values divides their variance by S, and sqrt(S) restores it.
      context = jnp.sqrt(source_length) * attend_to_source(self, query, source)
      x = 0.5**0.5 * (x + h + context)
      latest.append(after)
    return x, (tuple(latest), source)


class InitialDecoderState(nn.Module):
  """Maps encoder outputs to the initial state of a ConvS2S decoder.

  The state consists of convolution states of zeros and the source.
  """

  layer: AttentiveConvS2S

  @nn.compact
  def __call__(self, encoder_outputs, mask=None):  # [B, S, D], [B, S]
    batch_size, _, width = encoder_outputs.shape
    past, _ = self.layer.initial_state(batch_size, 0, width, encoder_outputs.dtype)
    return past, SourceKeysAndValues()(encoder_outputs, mask)
