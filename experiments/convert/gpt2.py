"""Conversion of GPT-2 checkpoints (Radford and others, 2019) in the format of Hugging Face.

  x_0     = E[tokens] + P[positions]
  x_2i+1  = x_2i   + W attention(norm(x_2i)) + b
  x_2i+2  = x_2i+1 + W2 gelu(W1 norm(x_2i+1) + b1) + b2
  logits  = norm(x_n) E^T

The stored matrices have the layout [in, out], and one matrix holds the projections of queries, keys
and values.
"""

import math
import os

from experiments.convert import checkpoint
from transformer.attention import Attention
from transformer.feedforward import FeedForward
from transformer.model import DecoderOnly
from transformer.normalization import LayerNorm
from transformer.positions import Learned

ACTIVATIONS = {  # name in transformers -> name here; several names stand for the same function
  'relu': 'relu',
  **dict.fromkeys(('gelu', 'gelu_python'), 'gelu_exact'),
  **dict.fromkeys(
    ('gelu_new', 'gelu_pytorch_tanh', 'gelu_python_tanh', 'gelu_fast', 'gelu_accurate'), 'gelu'
  ),
}
MASKS = r'h\.\d+\.attn\.(bias|masked_bias)'  # causal masks that older files store


def load_gpt2(folder: str | os.PathLike) -> tuple[DecoderOnly, dict]:
  """Loads a GPT-2 model and its variables, and raises a BadInput for any other checkpoint."""
  return checkpoint.load_checkpoint(
    folder, build_gpt2, convert_gpt2_parameters, 'transformer.', MASKS)


def build_gpt2(config: checkpoint.UnusedConfigFields) -> DecoderOnly:
  """Builds the model that the config of a GPT-2 checkpoint describes."""
  config.pop_field_with_choices('model_type', ('gpt2',))
  config.require_field_values({
    'scale_attn_weights': True, 'scale_attn_by_inverse_layer_idx': False,
    'add_cross_attention': False, 'is_encoder_decoder': False, 'is_causal': True,
  })
  width = config.pop_positive_integer('n_embd')
  activation = config.pop_field_with_choices('activation_function', ACTIVATIONS, 'gelu_new')
  return checkpoint.build_decoder(
    vocabulary=config.pop_positive_integer('vocab_size'),
    width=width,
    depth=config.pop_positive_integer('n_layer'),
    attention=Attention(
      config.pop_positive_integer('n_head'),
      Learned(config.pop_positive_integer('n_positions')),
      use_bias=True,
    ),
    feedforward=FeedForward(
      ACTIVATIONS[activation], config.pop_positive_integer('n_inner', 4 * width) / width
    ),
    normalization=LayerNorm(config.pop_positive_float('layer_norm_epsilon', 1e-5)),
    tied=config.pop_field_with_choices('tie_word_embeddings', (True, False), True),
  )


def convert_gpt2_parameters(tensors: checkpoint.UnusedTensors, model: DecoderOnly) -> dict:
  """Converts the tensors of a GPT-2 checkpoint into the parameters of the model."""
  width = model.embedding.features
  attention, feedforward = (block.layer for block in model.stack.layers)
  heads, inner = attention.num_heads, round(feedforward.expansion * width)

  def convert_norm(tensor_prefix):
    return {parameter: tensors.pop_tensor(f'{tensor_prefix}.{tensor}', width)
            for parameter, tensor in (('scale', 'weight'), ('bias', 'bias'))}

  def convert_dense(tensor_prefix, input_shape, output_shape):
    shape = math.prod(input_shape), math.prod(output_shape)
    return {
      'kernel': tensors.pop_tensor(f'{tensor_prefix}.weight', *shape).reshape(
        *input_shape, *output_shape),
      'bias': tensors.pop_tensor(f'{tensor_prefix}.bias', shape[1]).reshape(output_shape),
    }

  stack = {}
  for level in range(model.stack.depth):
    name = f'h.{level}'
    stack[f'level_{2 * level}'] = {'norm': convert_norm(f'{name}.ln_1'), 'layer': {
      'projection': convert_dense(
        f'{name}.attn.c_attn', (width,), (3 * heads, width // heads)),
      'output': convert_dense(f'{name}.attn.c_proj', (heads, width // heads), (width,)),
    }}
    stack[f'level_{2 * level + 1}'] = {'norm': convert_norm(f'{name}.ln_2'), 'layer': {
      'expand': convert_dense(f'{name}.mlp.c_fc', (width,), (inner,)),
      'contract': convert_dense(f'{name}.mlp.c_proj', (inner,), (width,)),
    }}
  embedding = tensors.pop_tensor('wte.weight', model.embedding.num_embeddings, width)
  positions = tensors.pop_tensor('wpe.weight', attention.positions.max_length, width)
  return {
    'embedding': {'embedding': embedding},
    'prelude': {'positions': positions},
    'stack': stack,
    'last_norm': convert_norm('ln_f'),
    **checkpoint.convert_output_head_parameters(tensors, model, embedding),
  }
