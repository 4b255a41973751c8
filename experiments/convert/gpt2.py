"""GPT-2 (Radford et al. 2019), from a checkpoint as Hugging Face keeps it.

  x_0     = E[tokens] + P[positions]
  x_2i+1  = x_2i   + W attention(norm(x_2i)) + b
  x_2i+2  = x_2i+1 + W2 gelu(W1 norm(x_2i+1) + b1) + b2
  logits  = norm(x_n) E^T

Its matrices stand as [in, out], the projections of queries, keys and values in one.
"""

import math
import os

from experiments.convert import checkpoint
from transformer.attention import Attention
from transformer.feedforward import FeedForward
from transformer.model import DecoderOnly
from transformer.normalization import LayerNorm
from transformer.positions import Learned

ACTIVATIONS = {  # name in transformers -> name here; several are the same function
  'relu': 'relu',
  **dict.fromkeys(('gelu', 'gelu_python'), 'gelu_exact'),
  **dict.fromkeys(
    ('gelu_new', 'gelu_pytorch_tanh', 'gelu_python_tanh', 'gelu_fast', 'gelu_accurate'), 'gelu'
  ),
}
MASKS = r'h\.\d+\.attn\.(bias|masked_bias)'  # which keys a query may look at, as older files say it


def load(folder: str | os.PathLike) -> tuple[DecoderOnly, dict]:
  """The model's expression and its parameters; BadInput for what is no GPT-2, or damaged."""
  return checkpoint.load(folder, model_of, parameters_of, 'transformer.', MASKS)


def model_of(config: checkpoint.Config) -> DecoderOnly:
  """The expression that a config describes."""
  config.choice('model_type', ('gpt2',))
  config.only(
    scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False,
    is_encoder_decoder=False, is_causal=True,
  )
  width = config.whole('n_embd')
  activation = config.choice('activation_function', ACTIVATIONS, 'gelu_new')
  return checkpoint.decoder(
    vocabulary=config.whole('vocab_size'),
    width=width,
    depth=config.whole('n_layer'),
    attention=Attention(
      config.whole('n_head'), Learned(config.whole('n_positions')), use_bias=True
    ),
    feedforward=FeedForward(
      ACTIVATIONS[activation], config.whole('n_inner', 4 * width) / width
    ),
    normalization=LayerNorm(config.real('layer_norm_epsilon', 1e-5)),
    tied=config.choice('tie_word_embeddings', (True, False), True),
  )


def parameters_of(tensors: checkpoint.Tensors, model: DecoderOnly) -> dict:
  """The parameters of that expression, by the names of its parts."""
  width = model.embedding.features
  attention, feedforward = (block.layer for block in model.stack.layers)
  heads, inner = attention.num_heads, round(feedforward.expansion * width)

  def norm(name):
    return {kind: tensors.take(f'{name}.{theirs}', width)
            for kind, theirs in (('scale', 'weight'), ('bias', 'bias'))}

  def dense(name, into, out):
    shape = math.prod(into), math.prod(out)
    return {
      'kernel': tensors.take(f'{name}.weight', *shape).reshape(*into, *out),
      'bias': tensors.take(f'{name}.bias', shape[1]).reshape(out),
    }

  stack = {}
  for level in range(model.stack.depth):
    name = f'h.{level}'
    stack[f'level_{2 * level}'] = {'norm': norm(f'{name}.ln_1'), 'layer': {
      'projection': dense(f'{name}.attn.c_attn', (width,), (3 * heads, width // heads)),
      'output': dense(f'{name}.attn.c_proj', (heads, width // heads), (width,)),
    }}
    stack[f'level_{2 * level + 1}'] = {'norm': norm(f'{name}.ln_2'), 'layer': {
      'expand': dense(f'{name}.mlp.c_fc', (width,), (inner,)),
      'contract': dense(f'{name}.mlp.c_proj', (inner,), (width,)),
    }}
  embedding = tensors.take('wte.weight', model.embedding.num_embeddings, width)
  positions = tensors.take('wpe.weight', attention.positions.max_length, width)
  return {
    'embedding': {'embedding': embedding},
    'prelude': {'positions': positions},
    'stack': stack,
    'last_norm': norm('ln_f'),
    **checkpoint.head(tensors, model, embedding),
  }
