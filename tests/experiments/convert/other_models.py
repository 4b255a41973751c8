"""Random checkpoints in the format of Hugging Face, and reference logits of their models.

The references compute the papers' equations in float64, one query of one head at a time.
"""

import json
import math

import numpy as np
import pytest

from tests.support.reference import rms_norm, silu

library = pytest.importorskip('safetensors.numpy', reason='the extra `weights` is not installed')

BATCH, LENGTH, WIDTH, DEPTH, VOCABULARY, FEEDFORWARD_WIDTH, HEAD_WIDTH = 2, 7, 8, 2, 11, 12, 4
TOKENS = np.random.default_rng(1).integers(0, VOCABULARY, (BATCH, LENGTH))
GPT2 = {'model_type': 'gpt2', 'vocab_size': VOCABULARY, 'n_embd': WIDTH, 'n_head': 2,
        'n_layer': DEPTH, 'n_positions': 9, 'layer_norm_epsilon': 1e-5, 'n_ctx': 9,
        'activation_function': 'gelu_new', 'resid_pdrop': 0.1}
LLAMA = {'model_type': 'llama', 'vocab_size': VOCABULARY, 'hidden_size': WIDTH,
         'num_attention_heads': 2, 'num_key_value_heads': 1, 'intermediate_size': FEEDFORWARD_WIDTH,
         'num_hidden_layers': DEPTH, 'hidden_act': 'silu', 'rms_norm_eps': 1e-6,
         'tie_word_embeddings': False, 'torch_dtype': 'float32'}
LLAMA3 = {'rope_type': 'llama3', 'rope_theta': 100.0, 'factor': 4.0, 'low_freq_factor': 0.5,
         'high_freq_factor': 2.0, 'original_max_position_embeddings': 9}
YARN = {'rope_type': 'yarn', 'rope_theta': 100.0, 'factor': 4.0, 'beta_fast': 8, 'beta_slow': 2,
        'original_max_position_embeddings': 64}
CHECKPOINTS = {
  'gpt2': GPT2,
  'gpt2, exact gelu': {**GPT2, 'activation_function': 'gelu'},
  'gpt2, untied, narrow': {**GPT2, 'tie_word_embeddings': False, 'n_inner': 12},
  'llama': {**LLAMA, 'num_key_value_heads': 2},
  'llama, shared keys, tied': {**LLAMA, 'tie_word_embeddings': True, 'rms_norm_eps': 1e-3},
  'llama, biases': {**LLAMA, 'attention_bias': True},
  'llama, linear': {**LLAMA, 'rope_parameters': {
    'rope_type': 'linear', 'factor': 3.0, 'rope_theta': 500.0}},
  'llama 3.1': {**LLAMA, 'head_dim': 8, 'rope_parameters': LLAMA3},
  'llama, yarn': {**LLAMA, 'head_dim': 8, 'rope_parameters': YARN},
  'llama, yarn, slopes': {**LLAMA, 'head_dim': 8, 'rope_parameters': {
    **YARN, 'mscale': 2.0, 'mscale_all_dim': 0.5, 'truncate': False}},
  'llama, dynamic': {**LLAMA, 'head_dim': 8, 'max_position_embeddings': 4, 'rope_parameters': {
    'rope_type': 'dynamic', 'rope_theta': 100.0, 'factor': 3.0}},
  'mistral': {**LLAMA, 'model_type': 'mistral', 'sliding_window': 3, 'head_dim': 6},
  'qwen2': {**LLAMA, 'model_type': 'qwen2', 'use_sliding_window': False, 'sliding_window': 3,
            'max_window_layers': 1, 'layer_types': ['full_attention'] * DEPTH},
  'qwen3': {**LLAMA, 'model_type': 'qwen3', 'head_dim': 6},
  'qwen3, epsilon': {**LLAMA, 'model_type': 'qwen3', 'head_dim': 6, 'rms_norm_eps': 0.1},
}


def random_tensors(shapes):
  """Draws tensors of the given shapes, around 1 for norms and around 0 otherwise."""
  generator = np.random.default_rng(0)
  return {name: generator.normal(float('norm' in name or 'ln_' in name), 0.4, shape)
          .astype(np.float32) for name, shape in shapes.items()}


def gpt2_shapes(config):
  inner = config.get('n_inner') or 4 * WIDTH
  shapes = {'wte.weight': (VOCABULARY, WIDTH), 'wpe.weight': (config['n_positions'], WIDTH),
            'ln_f.weight': (WIDTH,), 'ln_f.bias': (WIDTH,)}
  for level in range(DEPTH):
    for name, shape in (
      ('attn.c_attn', (WIDTH, 3 * WIDTH)), ('attn.c_proj', (WIDTH, WIDTH)),
      ('mlp.c_fc', (WIDTH, inner)), ('mlp.c_proj', (inner, WIDTH)),
      ('ln_1', (WIDTH,)), ('ln_2', (WIDTH,)),
    ):
      shapes[f'h.{level}.{name}.weight'] = shape
      shapes[f'h.{level}.{name}.bias'] = shape[-1:]
  return shapes


def llama_shapes(config):
  kind, head_width = config['model_type'], config.get('head_dim', HEAD_WIDTH)
  all_heads, key_heads = (
    config[f'num_{name}_heads'] * head_width for name in ('attention', 'key_value'))
  biased_projections = 'qkvo' if config.get('attention_bias') else 'qkv' if kind == 'qwen2' else ''
  shapes = {'embed_tokens.weight': (VOCABULARY, WIDTH), 'norm.weight': (WIDTH,)}
  for level in range(DEPTH):
    parts = {
      'self_attn.q_proj': (all_heads, WIDTH), 'self_attn.k_proj': (key_heads, WIDTH),
      'self_attn.v_proj': (key_heads, WIDTH), 'self_attn.o_proj': (WIDTH, all_heads),
      'mlp.gate_proj': (FEEDFORWARD_WIDTH, WIDTH), 'mlp.up_proj': (FEEDFORWARD_WIDTH, WIDTH),
      'mlp.down_proj': (WIDTH, FEEDFORWARD_WIDTH), 'input_layernorm': (WIDTH,),
      'post_attention_layernorm': (WIDTH,),
    }
    if kind == 'qwen3':
      parts |= {'self_attn.q_norm': (head_width,), 'self_attn.k_norm': (head_width,)}
    for name, shape in parts.items():
      shapes[f'layers.{level}.{name}.weight'] = shape
      if name in [f'self_attn.{part}_proj' for part in biased_projections]:
        shapes[f'layers.{level}.{name}.bias'] = shape[:1]
  return shapes


def random_checkpoint_tensors(config):
  """Draws the tensors of a checkpoint by Hugging Face's names without the prefix."""
  is_gpt2 = config['model_type'] == 'gpt2'
  shapes = (gpt2_shapes if is_gpt2 else llama_shapes)(config)
  if not config.get('tie_word_embeddings', is_gpt2):
    shapes['lm_head.weight'] = VOCABULARY, WIDTH
  return random_tensors(shapes)


def write_checkpoint(folder, config, tensors=None, prefix=True):
  """Writes a folder with a config.json and a model.safetensors."""
  tensors = random_checkpoint_tensors(config) if tensors is None else tensors
  prefix_text = ('transformer.' if config['model_type'] == 'gpt2' else 'model.') * prefix
  prefixed_tensors = {
    name if name.startswith('lm_head') else prefix_text + name: tensor
    for name, tensor in tensors.items()}
  library.save_file(prefixed_tensors, folder / 'model.safetensors', {'format': 'pt'})
  (folder / 'config.json').write_text(json.dumps(config))
  return folder


def causal_attention(query, key, value, window=0):
  """Computes causal attention with queries [B, T, H, K] and keys [B, T, key heads, K] in a loop."""
  y = np.zeros_like(query)
  heads_per_key = query.shape[2] // key.shape[2]
  for b, t, h in np.ndindex(query.shape[:3]):
    first = max(0, t + 1 - window) if window else 0
    visible = key[b, first:t + 1, h // heads_per_key], value[b, first:t + 1, h // heads_per_key]
    score = visible[0] @ query[b, t, h] / np.sqrt(query.shape[3])
    weight = np.exp(score - score.max())
    y[b, t, h] = weight / weight.sum() @ visible[1]
  return y.reshape(*y.shape[:2], -1)


def gpt2_logits(weights, config, tokens):
  def layer_norm(name, x):
    x = x - x.mean(-1, keepdims=True)
    y = rms_norm(x, weights[f'{name}.weight'], config['layer_norm_epsilon'])
    return y + weights[f'{name}.bias']

  def dense(name, x):
    return x @ weights[f'{name}.weight'] + weights[f'{name}.bias']

  def gelu(x):
    if config['activation_function'] == 'gelu':
      return 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

  x = weights['wte.weight'][tokens] + weights['wpe.weight'][: tokens.shape[1]]
  for level in range(DEPTH):
    h = f'h.{level}'
    parts = np.split(dense(f'{h}.attn.c_attn', layer_norm(f'{h}.ln_1', x)), 3, -1)
    parts = (part.reshape(*tokens.shape, config['n_head'], -1) for part in parts)
    x = x + dense(f'{h}.attn.c_proj', causal_attention(*parts))
    x = x + dense(f'{h}.mlp.c_proj', gelu(dense(f'{h}.mlp.c_fc', layer_norm(f'{h}.ln_2', x))))
  return layer_norm('ln_f', x) @ weights.get('lm_head.weight', weights['wte.weight']).T


def rotary_frequencies(config, pairs):
  """Returns the rotation per token of each pair, for Llama 3.1 by the authors' wavelengths."""
  rope = config.get('rope_parameters') or {}
  frequencies = rope.get('rope_theta', 10000.0) ** (-np.arange(pairs) / pairs)
  if rope.get('rope_type') == 'linear':
    return frequencies / rope['factor']
  if rope.get('rope_type') == 'yarn':
    return yarn_frequencies(rope, pairs)
  if rope.get('rope_type') == 'llama3':
    length, low, high = (rope[name] for name in (
      'original_max_position_embeddings', 'low_freq_factor', 'high_freq_factor'))
    for i, wave in enumerate(2 * np.pi / frequencies):
      if wave > length / low:
        frequencies[i] /= rope['factor']
      elif wave >= length / high:
        smooth = (length / wave - low) / (high - low)
        frequencies[i] = (1 - smooth) * frequencies[i] / rope['factor'] + smooth * frequencies[i]
  return frequencies


def yarn_frequencies(rope, pairs):
  """Interpolates linearly between pairs that rotate fast and pairs that rotate slowly."""
  base, length = rope['rope_theta'], rope['original_max_position_embeddings']
  frequencies = base ** (-np.arange(pairs) / pairs)
  slow_pair, fast_pair = (-pairs * np.log(2 * np.pi * rope[turns] / length) / np.log(base)
                   for turns in ('beta_slow', 'beta_fast'))
  if rope.get('truncate', True):
    slow_pair, fast_pair = np.ceil(slow_pair), np.floor(fast_pair)
  boundaries = [max(fast_pair, 0), min(slow_pair, 2 * pairs - 1)]
  unstretched_share = np.interp(np.arange(pairs), boundaries, [1, 0])
  return frequencies * unstretched_share + frequencies * (1 - unstretched_share) / rope['factor']


def rotary_angles(config, length, pairs):
  """Returns the rotation of each pair of channels at each position [T, K/2]."""
  position, rope = np.arange(length)[:, None], config.get('rope_parameters') or {}
  if rope.get('rope_type') != 'dynamic':
    return position * rotary_frequencies(config, pairs)
  angles, trained_length = np.zeros((length, pairs)), config['max_position_embeddings']
  for t, i in np.ndindex(length, pairs):
    effective_length = max(t + 1, trained_length)
    growth = rope['factor'] * effective_length / trained_length - (rope['factor'] - 1)
    base = rope['rope_theta'] * growth ** (2 * pairs / (2 * pairs - 2))
    angles[t, i] = t / base ** (i / pairs)
  return angles


def yarn_attention_factor(config):
  """Returns YaRN's factor on queries and keys."""
  rope = config.get('rope_parameters') or {}
  if rope.get('rope_type') != 'yarn':
    return 1
  numerator_slope, denominator_slope = rope.get('mscale', 1), rope.get('mscale_all_dim', 0)
  logarithm = np.log(rope['factor'])
  return (0.1 * numerator_slope * logarithm + 1) / (0.1 * denominator_slope * logarithm + 1)


def rotate_pairs(x, angle):
  """Rotates each pair of channels (i, i + K/2) of [B, T, H, K] by the angles [T, K/2]."""
  pair = x[..., : angle.shape[1]] + 1j * x[..., angle.shape[1]:]
  pair = pair * np.exp(1j * angle)[None, :, None]
  return np.concatenate([pair.real, pair.imag], -1)


def llama_logits(weights, config, tokens):
  epsilon, heads = config['rms_norm_eps'], config['num_attention_heads']
  window = config.get('sliding_window', 0) if config['model_type'] == 'mistral' else 0

  def dense(name, x):
    return x @ weights[f'{name}.weight'].T + weights.get(f'{name}.bias', 0)

  def project_heads(name, x, count):
    y = dense(f'{name}_proj', x).reshape(*tokens.shape, count, -1)
    if f'{name}_norm.weight' in weights:
      y = rms_norm(y, weights[f'{name}_norm.weight'], epsilon)
    if name[-1] == 'v':
      return y
    angles = rotary_angles(config, tokens.shape[1], y.shape[-1] // 2)
    return yarn_attention_factor(config) * rotate_pairs(y, angles)

  x = weights['embed_tokens.weight'][tokens]
  for level in range(DEPTH):
    layer = f'layers.{level}'
    y = rms_norm(x, weights[f'{layer}.input_layernorm.weight'], epsilon)
    parts = (project_heads(f'{layer}.self_attn.{part}', y, count) for part, count in (
      ('q', heads), ('k', config['num_key_value_heads']), ('v', config['num_key_value_heads'])))
    x = x + dense(f'{layer}.self_attn.o_proj', causal_attention(*parts, window))
    y = rms_norm(x, weights[f'{layer}.post_attention_layernorm.weight'], epsilon)
    y = silu(dense(f'{layer}.mlp.gate_proj', y)) * dense(f'{layer}.mlp.up_proj', y)
    x = x + dense(f'{layer}.mlp.down_proj', y)
  x = rms_norm(x, weights['norm.weight'], epsilon)
  return x @ weights.get('lm_head.weight', weights['embed_tokens.weight']).T


def expected_logits(config, tokens=TOKENS):
  reference = gpt2_logits if config['model_type'] == 'gpt2' else llama_logits
  tensors = {name: a.astype(np.float64) for name, a in random_checkpoint_tensors(config).items()}
  return reference(tensors, config, tokens)
