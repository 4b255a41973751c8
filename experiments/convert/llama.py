"""Conversion of Llama, Mistral and Qwen checkpoints in the format of Hugging Face.

  x_2i+1  = x_2i   + W attention(norm(x_2i))                    rotary positions, grouped queries
  x_2i+2  = x_2i+1 + W2 (silu(W1 y) * W3 y),  y = norm(x_2i+1)  norms by the RMS alone
  logits  = W norm(x_n),  or with the embedding's transpose for W

  Llama       the equations above                          (Touvron et al. 2023)
  Llama 3.1   low rotary frequencies divided by a factor   (Grattafiori et al. 2024)
  Mistral     attention within a window                    (Jiang et al. 2023)
  Qwen2       biases of queries, keys and values           (Yang et al. 2024)
  Qwen3       norms of queries and keys                    (Yang et al. 2025)

In all families, rotary positions may be unscaled, linearly scaled, Llama 3.1's, YaRN or dynamic.
The stored matrices have the layout [out, in].
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
from transformer.stretched_rotary import (
  DynamicRotary,
  Llama3Rotary,
  YarnRotary,
  yarn_query_key_scale,
)

FREQUENCIES = r'(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq'  # tensors of older files


class Family(NamedTuple):
  """Attention options and config defaults in which a model family differs from Llama."""

  defaults: dict[str, Any]  # values of the fields that its config.json may omit
  attention_bias: bool = False  # whether its config.json may enable biases in attention
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


def load_llama(folder: str | os.PathLike) -> tuple[DecoderOnly, dict]:
  """Loads a Llama, Mistral or Qwen model, and raises a BadInput for any other checkpoint."""
  return checkpoint.load_checkpoint(
    folder, build_llama, convert_llama_parameters, 'model.', FREQUENCIES)


def build_llama(config: checkpoint.UnusedConfigFields) -> DecoderOnly:
  """Builds the model that a Llama, Mistral or Qwen config describes."""
  family = FAMILIES[config.pop_field_with_choices('model_type', FAMILIES)]
  config.set_defaults(family.defaults)
  config.pop_field_with_choices('hidden_act', ('silu', 'swish'), 'silu')  # the same function
  config.require_field_values({
    'mlp_bias': False, 'rope_interleaved': False, 'is_encoder_decoder': False, 'is_causal': True})
  width = config.pop_positive_integer('hidden_size')
  heads = config.pop_positive_integer('num_attention_heads')
  head_width = config.pop_positive_integer('head_dim', width // heads)
  epsilon = config.pop_positive_float('rms_norm_eps', 1e-6)
  biases = (True, False) if family.attention_bias else (False,)
  return checkpoint.build_decoder(
    vocabulary=config.pop_positive_integer('vocab_size'),
    width=width,
    depth=config.pop_positive_integer('num_hidden_layers'),
    attention=Attention(
      heads,
      build_rotary_encoding(config),
      config.pop_positive_integer('num_key_value_heads', heads),
      window=attention_window(config, family),
      query_key_norm=family.query_key_norm,
      query_key_epsilon=epsilon if family.query_key_norm else Attention.query_key_epsilon,
      key_width=head_width,
      value_width=head_width,
      use_bias=config.pop_field_with_choices('attention_bias', biases, False),
      input_bias=family.input_bias,
    ),
    feedforward=FeedForward(
      'swiglu', config.pop_positive_integer('intermediate_size') / width),
    normalization=RMSNorm(epsilon),
    tied=config.pop_field_with_choices('tie_word_embeddings', (True, False), False),
  )


def attention_window(config: checkpoint.UnusedConfigFields, family: Family) -> int:
  """Returns the size of the sliding attention window in tokens, or 0 for no window."""
  size = config.pop_positive_integer('sliding_window', 0)
  config.require_field_values({'use_sliding_window': False})
  config.pop_field('max_window_layers', 0)  # has no effect where use_sliding_window is false
  kinds = config.pop_field('layer_types', [])
  if not isinstance(kinds, list) or any(kind != 'full_attention' for kind in kinds):
    raise config.unsupported_value_error('layer_types', kinds, ('full_attention',))
  return size if family.window else 0


def build_rotary_encoding(config: checkpoint.UnusedConfigFields) -> Rotary:
  """Builds the rotary position encoding that the config of a checkpoint describes.

  The config has the fields of transformers 5 or of earlier versions.
  """
  base = config.pop_positive_float('rope_theta', 10000.0)
  max_positions = config.pop_positive_integer('max_position_embeddings', 2048)
  config.require_field_values({'partial_rotary_factor': 1.0})
  rope_config = config.pop_first_nonempty_field(('rope_scaling', 'rope_parameters'))
  rope_config.require_field_values({'partial_rotary_factor': 1.0})
  kind = rope_config.pop_field_with_choices(
    'rope_type', ROTARY_KINDS, rope_config.pop_field_with_choices('type', ROTARY_KINDS, 'default'))
  trained_length = rope_config.pop_positive_integer(
    'original_max_position_embeddings', max_positions)
  base = rope_config.pop_positive_float('rope_theta', base)
  positions = ROTARY_KINDS[kind](rope_config, base, max_positions, trained_length)
  rope_config.reject_unused_fields()
  return positions


def _build_standard_rotary_encoding(
  rope_config, base: float, max_positions: int, trained_length: int
) -> Rotary:
  return Rotary(base)


def _build_linearly_scaled_rotary_encoding(
  rope_config, base: float, max_positions: int, trained_length: int
) -> Rotary:
  """Builds a rotary position encoding with all frequencies divided by the same factor."""
  return Rotary(base, rope_config.pop_positive_float('factor'))


def _build_llama3_rotary_encoding(
  rope_config, base: float, max_positions: int, trained_length: int
) -> Llama3Rotary:
  """Builds the rotary position encoding of Llama 3.1."""
  return Llama3Rotary(
    base=base,
    stretch=rope_config.pop_positive_float('factor'),
    trained_length=trained_length,
    min_rotations=rope_config.pop_positive_float('low_freq_factor'),
    max_rotations=rope_config.pop_positive_float('high_freq_factor'),
  )


def _build_yarn_rotary_encoding(
  rope_config, base: float, max_positions: int, trained_length: int
) -> YarnRotary:
  """Builds a YaRN rotary encoding with the attention factor that the config states or implies."""
  stretch = rope_config.pop_positive_float('factor', max_positions / trained_length)
  slopes = [rope_config.pop_positive_float(name, 0.0) for name in ('mscale', 'mscale_all_dim')]
  attention_factor = yarn_query_key_scale(stretch)
  if all(slopes):
    numerator, denominator = (yarn_query_key_scale(stretch, slope) for slope in slopes)
    attention_factor = numerator / denominator
  return YarnRotary(
    base=base,
    stretch=stretch,
    trained_length=trained_length,
    min_rotations=rope_config.pop_positive_float('beta_slow', 1.0),
    max_rotations=rope_config.pop_positive_float('beta_fast', 32.0),
    round_boundaries=rope_config.pop_field_with_choices('truncate', (True, False), True),
    attention_factor=rope_config.pop_positive_float('attention_factor', attention_factor),
  )


def _build_dynamic_rotary_encoding(
  rope_config, base: float, max_positions: int, trained_length: int
) -> DynamicRotary:
  """Builds a rotary encoding with lower frequencies at positions beyond max_position_embeddings."""
  return DynamicRotary(
    base=base, stretch=rope_config.pop_positive_float('factor'), trained_length=max_positions)


ROTARY_KINDS = {
  'default': _build_standard_rotary_encoding,
  'linear': _build_linearly_scaled_rotary_encoding,
  'llama3': _build_llama3_rotary_encoding,
  'yarn': _build_yarn_rotary_encoding,
  'dynamic': _build_dynamic_rotary_encoding,
}


def convert_llama_parameters(tensors: checkpoint.UnusedTensors, model: DecoderOnly) -> dict:
  """Converts the tensors of a Llama, Mistral or Qwen checkpoint into the model's parameters."""
  width = model.embedding.features
  attention, feedforward = (block.layer for block in model.stack.layers)
  heads, key_heads, head_width = attention.num_heads, attention.num_key_heads, attention.key_width
  inner = round(feedforward.expansion * width)

  def convert_norm(tensor_prefix, channels=width):
    return {'scale': tensors.pop_tensor(f'{tensor_prefix}.weight', channels)}

  def convert_dense(tensor_prefix, input_shape, output_shape, bias=False):
    shape = math.prod(output_shape), math.prod(input_shape)
    kernel = tensors.pop_tensor(f'{tensor_prefix}.weight', *shape)
    parameters = {'kernel': kernel.T.reshape(*input_shape, *output_shape)}
    if bias:
      stored_bias = tensors.pop_tensor(f'{tensor_prefix}.bias', shape[0])
      parameters['bias'] = stored_bias.reshape(output_shape)
    return parameters

  def convert_attention(tensor_prefix):
    bias = attention.use_bias or attention.input_bias
    projections = (
      convert_dense(f'{tensor_prefix}.{part}_proj', (width,), (count, head_width), bias)
      for part, count in (('q', heads), ('k', key_heads), ('v', key_heads)))
    parameters = {
      'projection': jax.tree.map(lambda *parts: np.concatenate(parts, -2), *projections),
      'output': convert_dense(
        f'{tensor_prefix}.o_proj', (heads, head_width), (width,), attention.use_bias),
    }
    if attention.query_key_norm:
      parameters['query_norm'] = convert_norm(f'{tensor_prefix}.q_norm', head_width)
      parameters['key_norm'] = convert_norm(f'{tensor_prefix}.k_norm', head_width)
    return parameters

  stack = {}
  for level in range(model.stack.depth):
    name = f'layers.{level}'
    stack[f'level_{2 * level}'] = {
      'norm': convert_norm(f'{name}.input_layernorm'),
      'layer': convert_attention(f'{name}.self_attn'),
    }
    stack[f'level_{2 * level + 1}'] = {
      'norm': convert_norm(f'{name}.post_attention_layernorm'),
      'layer': {
        # In these checkpoints, gate_proj is the projection whose output passes through silu.
        'expand': convert_dense(f'{name}.mlp.gate_proj', (width,), (inner,)),
        'gate': convert_dense(f'{name}.mlp.up_proj', (width,), (inner,)),
        'contract': convert_dense(f'{name}.mlp.down_proj', (inner,), (width,)),
      },
    }
  embedding = tensors.pop_tensor('embed_tokens.weight', model.embedding.num_embeddings, width)
  return {
    'embedding': {'embedding': embedding},
    'stack': stack,
    'last_norm': convert_norm('norm'),
    **checkpoint.convert_output_head_parameters(tensors, model, embedding),
  }
