"""Llama (Touvron et al. 2023) and its descendants, from checkpoints as Hugging Face keeps them.

  x_2i+1  = x_2i   + W attention(norm(x_2i))                    rotary positions, grouped queries
  x_2i+2  = x_2i+1 + W2 (silu(W1 y) * W3 y),  y = norm(x_2i+1)  norms by the RMS alone
  logits  = W norm(x_n),  or with the embedding's transpose for W

  Llama 3.1   slow turns stretched           (Grattafiori et al. 2024)
  Mistral     a window                       (Jiang et al. 2023)
  Qwen2       biases of queries, keys, values  (Yang et al. 2024)
  Qwen3       norms of queries and keys      (Yang et al. 2025)

Its matrices stand as [out, in].
"""

import math
import os
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn

from experiments.weights import checkpoint
from transformer.attention import Attention
from transformer.feedforward import FeedForward
from transformer.model import DecoderOnly
from transformer.positions import Llama3Rotary, Rotary

FREQUENCIES = r'(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq'  # as older files have them


class Family(NamedTuple):
  """Where a descendant differs."""

  defaults: dict[str, Any]  # of what its config.json may leave out
  window: bool = False
  input_bias: bool = False
  query_key_norm: bool = False


FAMILIES = {
  'llama': Family({}),
  'mistral': Family({'num_key_value_heads': 8, 'sliding_window': 4096}, window=True),
  'qwen2': Family({'num_key_value_heads': 32}, input_bias=True),
  'qwen3': Family({'num_key_value_heads': 32, 'head_dim': 128}, query_key_norm=True),
}


def load(folder: str | os.PathLike) -> tuple[DecoderOnly, dict]:
  """The model's expression and its parameters; BadInput for another's model, or a damaged one."""
  return checkpoint.load(folder, model_of, parameters_of, 'model.', FREQUENCIES)


def model_of(config: checkpoint.Config) -> DecoderOnly:
  """The expression that a config describes."""
  family = FAMILIES[config.choice('model_type', FAMILIES)]
  config.assume(family.defaults)
  config.only(
    hidden_act='silu', mlp_bias=False, rope_interleaved=False, is_encoder_decoder=False
  )
  width, heads = config.whole('hidden_size'), config.whole('num_attention_heads')
  head_width = config.whole('head_dim', width // heads)
  epsilon = config.real('rms_norm_eps', 1e-6)
  if family.query_key_norm and epsilon != 1e-6:  # which is what the norms of heads have here
    raise config.refused('rms_norm_eps', epsilon, (1e-6,))
  return checkpoint.decoder(
    vocabulary=config.whole('vocab_size'),
    width=width,
    depth=config.whole('num_hidden_layers'),
    attention=Attention(
      heads,
      rotary(config),
      config.whole('num_key_value_heads', heads),
      window=window(config, family),
      query_key_norm=family.query_key_norm,
      key_width=head_width,
      value_width=head_width,
      use_bias=config.choice('attention_bias', (True, False), False),
      input_bias=family.input_bias,
    ),
    feedforward=FeedForward('swiglu', config.whole('intermediate_size') / width),
    normalization=nn.RMSNorm(epsilon),
    tied=config.choice('tie_word_embeddings', (True, False), False),
  )


def window(config: checkpoint.Config, family: Family) -> int:
  """How many of the latest tokens all layers see; 0: all tokens."""
  size = config.whole('sliding_window', 0)
  config.only(use_sliding_window=False)
  config.take('max_window_layers', 0)  # says nothing where that is false
  for kind in config.take('layer_types', ()):
    if kind != 'full_attention':
      raise config.refused('layer_types', kind, ('full_attention',))
  return size if family.window else 0


def rotary(config: checkpoint.Config) -> Rotary:
  """Positions by the names of transformers 5, or by those of its versions before."""
  own = config.inner('rope_parameters', 'rope_scaling')
  base = own.real('rope_theta', config.real('rope_theta', 10000.0))
  longest = config.whole('max_position_embeddings', 2048)
  own.only(partial_rotary_factor=1.0)
  kinds = ('default', 'linear', 'llama3')
  kind = own.choice('rope_type', kinds, own.choice('type', kinds, 'default'))
  positions = Rotary(base)
  if kind == 'linear':
    positions = Rotary(base, own.real('factor'))
  elif kind == 'llama3':
    positions = Llama3Rotary(
      base,
      own.real('factor'),
      own.real('low_freq_factor'),
      own.real('high_freq_factor'),
      own.whole('original_max_position_embeddings', longest),
    )
  own.finish()
  return positions


def parameters_of(tensors: checkpoint.Tensors, model: DecoderOnly) -> dict:
  """The parameters of that expression, by the names of its parts."""
  width = model.embedding.features
  attention, feedforward = (block.layer for block in model.stack.layers)
  heads, key_heads, head_width = attention.num_heads, attention.key_heads, attention.key_width
  inner = round(feedforward.expansion * width)

  def norm(name, channels=width):
    return {'scale': tensors.take(f'{name}.weight', channels)}

  def dense(name, into, out, bias=False):
    shape = math.prod(out), math.prod(into)
    found = {'kernel': tensors.take(f'{name}.weight', *shape).T.reshape(*into, *out)}
    if bias:
      found['bias'] = tensors.take(f'{name}.bias', shape[0]).reshape(out)
    return found

  def attend(name):
    bias = attention.use_bias or attention.input_bias
    parts = (dense(f'{name}.{part}_proj', (width,), (count, head_width), bias)
             for part, count in (('q', heads), ('k', key_heads), ('v', key_heads)))
    found = {
      'projection': jax.tree.map(lambda *parts: np.concatenate(parts, -2), *parts),
      'output': dense(f'{name}.o_proj', (heads, head_width), (width,), attention.use_bias),
    }
    if attention.query_key_norm:
      found['query_norm'] = norm(f'{name}.q_norm', head_width)
      found['key_norm'] = norm(f'{name}.k_norm', head_width)
    return found

  stack = {}
  for level in range(model.stack.depth):
    name = f'layers.{level}'
    stack[f'level_{2 * level}'] = {
      'norm': norm(f'{name}.input_layernorm'), 'layer': attend(f'{name}.self_attn'),
    }
    stack[f'level_{2 * level + 1}'] = {'norm': norm(f'{name}.post_attention_layernorm'), 'layer': {
      'expand': dense(f'{name}.mlp.gate_proj', (width,), (inner,)),  # the one that silu bends
      'gate': dense(f'{name}.mlp.up_proj', (width,), (inner,)),
      'contract': dense(f'{name}.mlp.down_proj', (inner,), (width,)),
    }}
  embedding = tensors.take('embed_tokens.weight', model.embedding.num_embeddings, width)
  return {
    'embedding': {'embedding': embedding},
    'stack': stack,
    'last_norm': norm('norm'),
    **checkpoint.head(tensors, model, embedding),
  }
