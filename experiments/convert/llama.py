"""Llama (Touvron et al. 2023) and its descendants, from checkpoints as Hugging Face keeps them.

  x_2i+1  = x_2i   + W attention(norm(x_2i))                    rotary positions, grouped queries
  x_2i+2  = x_2i+1 + W2 (silu(W1 y) * W3 y),  y = norm(x_2i+1)  norms by the RMS alone
  logits  = W norm(x_n),  or with the embedding's transpose for W

  Llama 3.1   slow turns stretched             (Grattafiori et al. 2024)
  Mistral     a window                         (Jiang et al. 2023)
  Qwen2       biases of queries, keys, values  (Yang et al. 2024)
  Qwen3       norms of queries and keys        (Yang et al. 2025)

Rotary positions may be plain, linear, Llama 3.1's, YaRN or dynamic, in any of these families.
Its matrices stand as [out, in].
"""

import math
import os
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.convert import checkpoint
from transformer.attention import Attention
from transformer.feedforward import FeedForward
from transformer.model import DecoderOnly
from transformer.normalization import RMSNorm
from transformer.positions import Rotary
from transformer.stretched_rotary import DynamicRotary, Llama3Rotary, YarnRotary, yarn_magnitude

FREQUENCIES = r'(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq'  # as older files have them


class Family(NamedTuple):
  """Where a descendant differs."""

  defaults: dict[str, Any]  # of what its config.json may leave out
  attention_bias: bool = False  # whether its config.json may ask for biases in attention
  window: bool = False
  input_bias: bool = False
  query_key_norm: bool = False


FAMILIES = {
  'llama': Family({}, attention_bias=True),
  'mistral': Family({'num_key_value_heads': 8, 'sliding_window': 4096}, window=True),
  'qwen2': Family({'num_key_value_heads': 32}, input_bias=True),
  'qwen3': Family(
    {'num_key_value_heads': 32, 'head_dim': 128}, attention_bias=True, query_key_norm=True
  ),
}


def load(folder: str | os.PathLike) -> tuple[DecoderOnly, dict]:
  """The model's expression and its parameters; BadInput for another's model, or a damaged one."""
  return checkpoint.load(folder, model_of, parameters_of, 'model.', FREQUENCIES)


def model_of(config: checkpoint.Config) -> DecoderOnly:
  """The expression that a config describes."""
  family = FAMILIES[config.choice('model_type', FAMILIES)]
  config.assume(family.defaults)
  config.choice('hidden_act', ('silu', 'swish'), 'silu')  # two names of one function
  config.only(mlp_bias=False, rope_interleaved=False, is_encoder_decoder=False, is_causal=True)
  width, heads = config.whole('hidden_size'), config.whole('num_attention_heads')
  head_width = config.whole('head_dim', width // heads)
  epsilon = config.real('rms_norm_eps', 1e-6)
  biases = (True, False) if family.attention_bias else (False,)
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
      query_key_epsilon=epsilon if family.query_key_norm else Attention.query_key_epsilon,
      key_width=head_width,
      value_width=head_width,
      use_bias=config.choice('attention_bias', biases, False),
      input_bias=family.input_bias,
    ),
    feedforward=FeedForward('swiglu', config.whole('intermediate_size') / width),
    normalization=RMSNorm(epsilon),
    tied=config.choice('tie_word_embeddings', (True, False), False),
  )


def window(config: checkpoint.Config, family: Family) -> int:
  """How many of the latest tokens all layers see; 0: all tokens."""
  size = config.whole('sliding_window', 0)
  config.only(use_sliding_window=False)
  config.take('max_window_layers', 0)  # says nothing where that is false
  kinds = config.take('layer_types', [])
  if not isinstance(kinds, list) or any(kind != 'full_attention' for kind in kinds):
    raise config.refused('layer_types', kinds, ('full_attention',))
  return size if family.window else 0


def rotary(config: checkpoint.Config) -> Rotary:
  """Positions by the names of transformers 5, or by those of its versions before."""
  base = config.real('rope_theta', 10000.0)
  longest = config.whole('max_position_embeddings', 2048)
  config.only(partial_rotary_factor=1.0)
  fields = config.inner('rope_scaling', 'rope_parameters')
  fields.only(partial_rotary_factor=1.0)
  kind = fields.choice('rope_type', ROTARY, fields.choice('type', ROTARY, 'default'))
  trained_length = fields.whole('original_max_position_embeddings', longest)
  positions = ROTARY[kind](fields, fields.real('rope_theta', base), longest, trained_length)
  fields.finish()
  return positions


def plain(fields, base: float, longest: int, trained_length: int) -> Rotary:
  """Turns that no length changes."""
  return Rotary(base)


def linear(fields, base: float, longest: int, trained_length: int) -> Rotary:
  """All turns stretched alike."""
  return Rotary(base, fields.real('factor'))


def llama3(fields, base: float, longest: int, trained_length: int) -> Llama3Rotary:
  """Those of Llama 3.1."""
  return Llama3Rotary(
    base=base,
    stretch=fields.real('factor'),
    trained_length=trained_length,
    few_turns=fields.real('low_freq_factor'),
    many_turns=fields.real('high_freq_factor'),
  )


def yarn(fields, base: float, longest: int, trained_length: int) -> YarnRotary:
  """YaRN's; there are three ways to say by how much attention is sharpened."""
  stretch = fields.real('factor', longest / trained_length)
  slopes = [fields.real(name, 0.0) for name in ('mscale', 'mscale_all_dim')]
  sharpening = yarn_magnitude(stretch)
  if all(slopes):
    above, below = (yarn_magnitude(stretch, slope) for slope in slopes)
    sharpening = above / below
  return YarnRotary(
    base=base,
    stretch=stretch,
    trained_length=trained_length,
    few_turns=fields.real('beta_slow', 1.0),
    many_turns=fields.real('beta_fast', 32.0),
    whole_pairs=fields.choice('truncate', (True, False), True),
    sharpening=fields.real('attention_factor', sharpening),
  )


def dynamic(fields, base: float, longest: int, trained_length: int) -> DynamicRotary:
  """Dynamic ones; transformers takes max_position_embeddings for the trained length."""
  return DynamicRotary(base=base, stretch=fields.real('factor'), trained_length=longest)


ROTARY = {'default': plain, 'linear': linear, 'llama3': llama3, 'yarn': yarn, 'dynamic': dynamic}


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
