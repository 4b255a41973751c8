"""Attention to a source by products, above a recurrent layer or beside each convolution.

  global    y_t = tanh(W_c [c_t; h_t]),  c_t = sum_s softmax_s(score(h_t, m_s)) m_s
            score: h_t . W_a m_s ('general') or h_t . m_s ('dot'), not divided by sqrt(D)
                                       (Luong, Pham and Manning 2015, equations 5, 7 and 8)
  ConvS2S   every level l:  h = glu(conv(x)),  d_t = W_l h_t + b_l + x_t,
            c_t = sqrt(S) sum_s softmax_s(d_t . m_s / sqrt(D)) m_s,  y = sqrt(1/2) (x + h + c)
                                       (Gehring et al. 2017, sections 3.3 and 3.5)

for the source's S outputs m of the encoder, in one head.

Not as in the papers: Luong's third score is Bahdanau's, `baselines.additive_attention`; his input
feeding, h~ as an input of the next step, would make a loop of what here is at once for all times.
ConvS2S adds the target's embedding to d and the source's to what is read; a layer here sees only
its input, which takes the place of the one, and the encoder's output, without the other. It does
not divide by sqrt(D): its embeddings have a standard deviation of 0.1, which keeps d . m small,
where here one of about 1 would let a softmax begin as a choice, with hardly a gradient.
"""

import math

import jax.numpy as jnp
from flax import linen as nn

from baselines.deep_convolution import ConvS2S
from transformer.attention import attend, sow_weights
from transformer.cross_attention import ProjectedSource
from transformer.dot_product import AttentionMask
from transformer.layer import SequenceLayer, masked
from transformer.options import one_of

SCORES = ('general', 'dot')


class ScoreKeys(nn.Module):
  """What an encoder read, as one head's values, and as its keys by themselves or projected."""

  score: str = 'dot'

  @nn.compact
  def __call__(self, memory, mask=None) -> ProjectedSource:  # [B, S, D], [B, S]
    key = memory = masked(memory, mask)
    if self.score == 'general':
      key = nn.Dense(key.shape[2], use_bias=False, dtype=key.dtype, name='key')(key)
    valid = jnp.ones(memory.shape[:2], bool) if mask is None else mask
    return ProjectedSource(*(each.swapaxes(1, 2)[:, None] for each in (key, memory)), valid)


def unread(batch_size: int, capacity: int, width: int, dtype) -> ProjectedSource:
  """A source that nobody has read."""
  places = jnp.zeros((batch_size, 1, width, capacity), dtype)
  return ProjectedSource(places, places, jnp.zeros((batch_size, capacity), bool))


def read(module: nn.Module, query, memory: ProjectedSource):
  """What queries [B, T, D], divided by sqrt(D), read of a source; 0 where there is none."""
  dtype, attention_mask = query.dtype, AttentionMask(valid=memory.valid, causal=False)
  query = query[:, None, None]
  key, value = memory.key.astype(dtype), memory.value.astype(dtype)
  sow_weights(module, query, key, attention_mask)
  return attend(query, key, value, attention_mask)[:, 0, 0]


class GlobalAttention(SequenceLayer):
  """Where the input, a recurrent layer's output, is completed by what it asks of the source."""

  score: str = 'general'

  def __post_init__(self):
    super().__post_init__()
    one_of(self, 'score', SCORES)

  @property
  def receptive_field(self):
    """The token itself."""
    return 1

  @property
  def source_projection(self):
    """Keys and values."""
    return ScoreKeys(self.score, parent=None)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """A source that nobody has read."""
    return unread(batch_size, capacity, width, dtype)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    (batch_size, _, width), x = x.shape, masked(x, mask)
    memory = unread(batch_size, 1, width, x.dtype) if state is None else state
    y = jnp.concatenate([read(self, math.sqrt(width) * x, memory), x], -1)
    return jnp.tanh(nn.Dense(width, use_bias=False, dtype=x.dtype, name='combine')(y)), memory


class AttentiveConvS2S(ConvS2S):
  """The decoder's gated convolutions, each followed by attention to the source.

  Its state is the tuple of the convolutions' and the source.
  """

  @property
  def source_projection(self):
    """The source, and convolutions that have read nothing."""
    return Beginning(self.clone(parent=None), parent=None)

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Convolutions that have read nothing, a source that nobody has read."""
    past = super().initial_state(batch_size, capacity, width, dtype)
    return past, unread(batch_size, capacity, width, dtype)

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    batch_size, _, width = x.shape
    past, memory = self.initial_state(batch_size, 1, width, x.dtype) if state is None else state
    size = memory.valid.sum(-1)[:, None, None].astype(x.dtype)
    x, latest = masked(x, mask), []
    for level, before in enumerate(past):
      (template,) = self.convolutions(level)
      convolution = template.copy(name=f'level_{level}_convolution')
      h, after = convolution(x, before, mask=mask, train=train)
      query = x + nn.Dense(width, dtype=x.dtype, name=f'level_{level}_query')(h)
      # A mean of S independent values has 1/S of their variance.
      x = 0.5**0.5 * (x + h + jnp.sqrt(size) * read(self, query, memory))
      latest.append(after)
    return x, (tuple(latest), memory)


class Beginning(nn.Module):
  """The state of a decoder's convolutions before the first token."""

  layer: AttentiveConvS2S

  @nn.compact
  def __call__(self, memory, mask=None):  # [B, S, D], [B, S]
    batch_size, _, width = memory.shape
    past, _ = self.layer.initial_state(batch_size, 0, width, memory.dtype)
    return past, ScoreKeys()(memory, mask)
