"""Language models of others: configs and random tensors under Hugging Face's names, and references.

The references are the papers' equations in float64, one query of one head at a time.
"""

import json
import math

import numpy as np
import pytest

from tests.support.reference import rms_norm, silu

library = pytest.importorskip('safetensors.numpy', reason='the extra `weights` is not installed')

BATCH, LENGTH, WIDTH, DEPTH, VOCABULARY, INNER, HEAD = 2, 7, 8, 2, 11, 12, 4
TOKENS = np.random.default_rng(1).integers(0, VOCABULARY, (BATCH, LENGTH))
GPT2 = {'model_type': 'gpt2', 'vocab_size': VOCABULARY, 'n_embd': WIDTH, 'n_head': 2,
        'n_layer': DEPTH, 'n_positions': 9, 'layer_norm_epsilon': 1e-5, 'n_ctx': 9,
        'activation_function': 'gelu_new', 'resid_pdrop': 0.1}
LLAMA = {'model_type': 'llama', 'vocab_size': VOCABULARY, 'hidden_size': WIDTH,
         'num_attention_heads': 2, 'num_key_value_heads': 1, 'intermediate_size': INNER,
         'num_hidden_layers': DEPTH, 'hidden_act': 'silu', 'rms_norm_eps': 1e-6,
         'tie_word_embeddings': False, 'torch_dtype': 'float32'}
WAVES = {'rope_type': 'llama3', 'rope_theta': 100.0, 'factor': 4.0, 'low_freq_factor': 0.5,
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
  'llama, waves': {**LLAMA, 'head_dim': 8, 'rope_parameters': WAVES},
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


def drawn(shapes):
  """Arrays of these shapes, those of norms around 1."""
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
  kind, head = config['model_type'], config.get('head_dim', HEAD)
  all_heads, key_heads = (config[f'num_{name}_heads'] * head for name in ('attention', 'key_value'))
  biased = 'qkvo' if config.get('attention_bias') else 'qkv' if kind == 'qwen2' else ''
  shapes = {'embed_tokens.weight': (VOCABULARY, WIDTH), 'norm.weight': (WIDTH,)}
  for level in range(DEPTH):
    parts = {
      'self_attn.q_proj': (all_heads, WIDTH), 'self_attn.k_proj': (key_heads, WIDTH),
      'self_attn.v_proj': (key_heads, WIDTH), 'self_attn.o_proj': (WIDTH, all_heads),
      'mlp.gate_proj': (INNER, WIDTH), 'mlp.up_proj': (INNER, WIDTH),
      'mlp.down_proj': (WIDTH, INNER), 'input_layernorm': (WIDTH,),
      'post_attention_layernorm': (WIDTH,),
      **({'self_attn.q_norm': (head,), 'self_attn.k_norm': (head,)} if kind == 'qwen3' else {}),
    }
    for name, shape in parts.items():
      shapes[f'layers.{level}.{name}.weight'] = shape
      if name in [f'self_attn.{part}_proj' for part in biased]:
        shapes[f'layers.{level}.{name}.bias'] = shape[:1]
  return shapes


def tensors_of(config):
  """Random tensors under Hugging Face's names, without the prefix."""
  gpt2 = config['model_type'] == 'gpt2'
  shapes = (gpt2_shapes if gpt2 else llama_shapes)(config)
  if not config.get('tie_word_embeddings', gpt2):
    shapes['lm_head.weight'] = VOCABULARY, WIDTH
  return drawn(shapes)


def checkpoint(folder, config, tensors=None, prefix=True):
  """A folder as theirs."""
  tensors = tensors_of(config) if tensors is None else tensors
  start = ('transformer.' if config['model_type'] == 'gpt2' else 'model.') * prefix
  named = {name if name.startswith('lm_head') else start + name: a for name, a in tensors.items()}
  library.save_file(named, folder / 'model.safetensors', {'format': 'pt'})
  (folder / 'config.json').write_text(json.dumps(config))
  return folder


def attended(query, key, value, window=0):
  """Causal attention of [B, T, H, K] to [B, T, keys, K], a query of a head at a time."""
  y = np.zeros_like(query)
  shared = query.shape[2] // key.shape[2]
  for b, t, h in np.ndindex(query.shape[:3]):
    first = max(0, t + 1 - window) if window else 0
    seen = key[b, first:t + 1, h // shared], value[b, first:t + 1, h // shared]
    score = seen[0] @ query[b, t, h] / np.sqrt(query.shape[3])
    weight = np.exp(score - score.max())
    y[b, t, h] = weight / weight.sum() @ seen[1]
  return y.reshape(*y.shape[:2], -1)


def gpt2_logits(w, config, tokens):
  def norm(name, x):
    x = x - x.mean(-1, keepdims=True)
    return rms_norm(x, w[f'{name}.weight'], config['layer_norm_epsilon']) + w[f'{name}.bias']

  def dense(name, x):
    return x @ w[f'{name}.weight'] + w[f'{name}.bias']

  def gelu(x):
    if config['activation_function'] == 'gelu':
      return 0.5 * x * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

  x = w['wte.weight'][tokens] + w['wpe.weight'][: tokens.shape[1]]
  for level in range(DEPTH):
    h = f'h.{level}'
    parts = np.split(dense(f'{h}.attn.c_attn', norm(f'{h}.ln_1', x)), 3, -1)
    parts = (part.reshape(*tokens.shape, config['n_head'], -1) for part in parts)
    x = x + dense(f'{h}.attn.c_proj', attended(*parts))
    x = x + dense(f'{h}.mlp.c_proj', gelu(dense(f'{h}.mlp.c_fc', norm(f'{h}.ln_2', x))))
  return norm('ln_f', x) @ w.get('lm_head.weight', w['wte.weight']).T


def frequencies(config, pairs):
  """Angles from token to token, by wavelengths as Llama 3.1's authors say it."""
  rope = config.get('rope_parameters') or {}
  found = rope.get('rope_theta', 10000.0) ** (-np.arange(pairs) / pairs)
  if rope.get('rope_type') == 'linear':
    return found / rope['factor']
  if rope.get('rope_type') == 'yarn':
    return yarn_frequencies(rope, pairs)
  if rope.get('rope_type') == 'llama3':
    length, low, high = (rope[name] for name in (
      'original_max_position_embeddings', 'low_freq_factor', 'high_freq_factor'))
    for i, wave in enumerate(2 * np.pi / found):
      if wave > length / low:
        found[i] /= rope['factor']
      elif wave >= length / high:
        smooth = (length / wave - low) / (high - low)
        found[i] = (1 - smooth) * found[i] / rope['factor'] + smooth * found[i]
  return found


def yarn_frequencies(rope, pairs):
  """A mixture that is linear between the pairs that come around often and seldom."""
  base, length = rope['rope_theta'], rope['original_max_position_embeddings']
  found = base ** (-np.arange(pairs) / pairs)
  seldom, often = (-pairs * np.log(2 * np.pi * rope[turns] / length) / np.log(base)
                   for turns in ('beta_slow', 'beta_fast'))
  if rope.get('truncate', True):
    seldom, often = np.ceil(seldom), np.floor(often)
  kept = np.interp(np.arange(pairs), [max(often, 0), min(seldom, 2 * pairs - 1)], [1, 0])
  return found * kept + found * (1 - kept) / rope['factor']


def angles(config, length, pairs):
  """How far each pair of channels is turned at each position [T, K/2]."""
  position, rope = np.arange(length)[:, None], config.get('rope_parameters') or {}
  if rope.get('rope_type') != 'dynamic':
    return position * frequencies(config, pairs)
  found, trained = np.zeros((length, pairs)), config['max_position_embeddings']
  for t, i in np.ndindex(length, pairs):
    read = max(t + 1, trained)
    growth = rope['factor'] * read / trained - (rope['factor'] - 1)
    base = rope['rope_theta'] * growth ** (2 * pairs / (2 * pairs - 2))
    found[t, i] = t / base ** (i / pairs)
  return found


def magnitude(config):
  """What YaRN multiplies queries and keys by."""
  rope = config.get('rope_parameters') or {}
  if rope.get('rope_type') != 'yarn':
    return 1
  above, below = rope.get('mscale', 1), rope.get('mscale_all_dim', 0)
  return (0.1 * above * np.log(rope['factor']) + 1) / (0.1 * below * np.log(rope['factor']) + 1)


def turned(x, angle):
  """Each pair of channels (i, i + K/2) of [B, T, H, K] as a complex number, turned by [T, K/2]."""
  pair = x[..., : angle.shape[1]] + 1j * x[..., angle.shape[1]:]
  pair = pair * np.exp(1j * angle)[None, :, None]
  return np.concatenate([pair.real, pair.imag], -1)


def llama_logits(w, config, tokens):
  epsilon, heads = config['rms_norm_eps'], config['num_attention_heads']
  window = config.get('sliding_window', 0) if config['model_type'] == 'mistral' else 0

  def dense(name, x):
    return x @ w[f'{name}.weight'].T + w.get(f'{name}.bias', 0)

  def project(name, x, count):
    y = dense(f'{name}_proj', x).reshape(*tokens.shape, count, -1)
    if f'{name}_norm.weight' in w:
      y = rms_norm(y, w[f'{name}_norm.weight'], epsilon)
    if name[-1] == 'v':
      return y
    return magnitude(config) * turned(y, angles(config, tokens.shape[1], y.shape[-1] // 2))

  x = w['embed_tokens.weight'][tokens]
  for level in range(DEPTH):
    layer = f'layers.{level}'
    y = rms_norm(x, w[f'{layer}.input_layernorm.weight'], epsilon)
    parts = (project(f'{layer}.self_attn.{part}', y, count) for part, count in (
      ('q', heads), ('k', config['num_key_value_heads']), ('v', config['num_key_value_heads'])))
    x = x + dense(f'{layer}.self_attn.o_proj', attended(*parts, window))
    y = rms_norm(x, w[f'{layer}.post_attention_layernorm.weight'], epsilon)
    y = silu(dense(f'{layer}.mlp.gate_proj', y)) * dense(f'{layer}.mlp.up_proj', y)
    x = x + dense(f'{layer}.mlp.down_proj', y)
  x = rms_norm(x, w['norm.weight'], epsilon)
  return x @ w.get('lm_head.weight', w['embed_tokens.weight']).T


def expected(config, tokens=TOKENS):
  reference = gpt2_logits if config['model_type'] == 'gpt2' else llama_logits
  tensors = {name: a.astype(np.float64) for name, a in tensors_of(config).items()}
  return reference(tensors, config, tokens)
