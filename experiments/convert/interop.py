"""Comparison of the logits of converted models with those of the `transformers` library.

No other module imports `transformers`.
For every supported kind of model, a small model of `transformers` gets random parameters, is saved
by `transformers`, and is loaded by this repository. Both models process the same tokens, in one
call and token by token with a cache.
"""

import inspect
import tempfile
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.convert import converters
from experiments.lab import optional
from experiments.lab.results.table import Table

BATCH, LENGTH, VOCABULARY, WIDTH, DEPTH = 2, 24, 97, 32, 3
GPT2 = {'n_embd': WIDTH, 'n_head': 4, 'n_layer': DEPTH, 'n_positions': 32}
LLAMA = {
  'hidden_size': WIDTH, 'num_attention_heads': 4, 'num_key_value_heads': 2, 'intermediate_size': 40,
  'num_hidden_layers': DEPTH, 'head_dim': 8, 'max_position_embeddings': 64,
}
LLAMA3 = {  # the pairs of channels rotate 5.1, 1.7 (partly stretched) and 0.1 times or less
  'rope_type': 'llama3', 'rope_theta': 1e4, 'factor': 8.0, 'low_freq_factor': 1.0,
  'high_freq_factor': 4.0, 'original_max_position_embeddings': 32,
}
LINEAR = {'rope_type': 'linear', 'rope_theta': 1e4, 'factor': 3.0}
YARN = {  # of the four channel pairs, one is not stretched, one partly, and two fully
  'rope_type': 'yarn', 'rope_theta': 1e2, 'factor': 4.0, 'original_max_position_embeddings': 64,
  'beta_fast': 8.0, 'beta_slow': 2.0,
}
DYNAMIC = {'rope_type': 'dynamic', 'rope_theta': 1e4, 'factor': 3.0}
CONFIGURATIONS = {
  'GPT-2': ('GPT2', GPT2),
  'GPT-2, untied head, narrow MLP': (
    'GPT2', {**GPT2, 'tie_word_embeddings': False, 'n_inner': 48}),
  'GPT-2, exact GELU': ('GPT2', {**GPT2, 'activation_function': 'gelu'}),
  'Llama': ('Llama', {**LLAMA, 'num_key_value_heads': 4}),
  'Llama, grouped heads, tied': ('Llama', {**LLAMA, 'tie_word_embeddings': True}),
  'Llama, one key head, biases': (
    'Llama', {**LLAMA, 'num_key_value_heads': 1, 'attention_bias': True, 'rms_norm_eps': 1e-5}),
  'Llama, linear rotary': ('Llama', {**LLAMA, 'rope_parameters': LINEAR}),
  'Llama 3.1': ('Llama', {**LLAMA, 'rope_parameters': LLAMA3}),
  'Llama, YaRN': ('Llama', {**LLAMA, 'rope_parameters': YARN}),
  'Llama, YaRN, custom attention factor': ('Llama', {
    **LLAMA, 'rope_parameters': {**YARN, 'mscale': 2.0, 'mscale_all_dim': 0.5, 'truncate': False}}),
  'Llama, dynamic rotary': ('Llama', {**LLAMA, 'rope_parameters': DYNAMIC}),
  'Llama, dynamic rotary, long input': ('Llama', {
    **LLAMA, 'rope_parameters': DYNAMIC, 'max_position_embeddings': 7}),
  'Mistral, window of 5': ('Mistral', {**LLAMA, 'sliding_window': 5}),
  'Qwen2': ('Qwen2', {k: v for k, v in LLAMA.items() if k != 'head_dim'}),
  'Qwen3, epsilon of 0.01': ('Qwen3', {**LLAMA, 'rms_norm_eps': 1e-2}),
  'Qwen3, wide heads': ('Qwen3', {**LLAMA, 'head_dim': 16}),
}


# With dynamic RoPE, Hugging Face logits of long inputs differ with and without a key-value cache.
# The converted model's logits match those that Hugging Face computes with a key-value cache.
# For long inputs with dynamic RoPE, the comparison only uses logits computed with a cache.
CACHED_ONLY = frozenset({'Llama, dynamic rotary, long input'})


class Agreement(NamedTuple):
  """Largest differences between the logits of a converted model and of the original model."""

  parameters: int
  standard_deviation: float  # of the logits of transformers
  one_call: float | None  # largest difference in one call, None if there is no reference
  cached: float  # largest difference token by token with a cache


def random_transformers_model(configuration: str) -> Any:
  """Creates a small model of `transformers` whose parameters are all random."""
  torch = optional.import_optional('torch', 'comparisons with transformers', 'interop')
  transformers = optional.import_optional(
    'transformers', 'comparisons with transformers', 'interop')
  kind, options = CONFIGURATIONS[configuration]
  transformers.utils.logging.disable_progress_bar()
  special_tokens = {'bos_token_id': None, 'eos_token_id': None}  # all tokens are ordinary ones
  config_class = getattr(transformers, f'{kind}Config')
  config = config_class(vocab_size=VOCABULARY, **special_tokens, **options)
  model = getattr(
    transformers, 'GPT2LMHeadModel' if kind == 'GPT2' else f'{kind}ForCausalLM')(config)
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for parameter in model.parameters():
      # Default initial values (uniform attention, norm scales of 1) would hide conversion errors.
      noise = torch.randn(parameter.shape, generator=generator)
      parameter.copy_(noise * 0.3 if parameter.ndim > 1 else 1 + 0.3 * noise)
  return model.eval()


def measure_logit_agreement(configuration: str) -> Agreement:
  """Compares the logits of a random `transformers` model with those of the converted model."""
  torch = optional.import_optional('torch', 'comparisons with transformers', 'interop')
  reference = random_transformers_model(configuration)
  with tempfile.TemporaryDirectory() as folder:
    reference.save_pretrained(folder)
    model, parameters = converters.load_model(folder)
  tokens = np.random.default_rng(0).integers(0, VOCABULARY, (BATCH, LENGTH))
  with torch.no_grad():
    reference_logits = reference(torch.tensor(tokens)).logits.numpy()
    reference_cached_logits = _cached_reference_logits(reference, torch.tensor(tokens))
  apply = jax.jit(model.apply)
  one_call_logits, _ = apply(parameters, tokens)
  cached_logits, state = [], model.initial_state(BATCH, LENGTH, WIDTH)
  for column in np.split(tokens, LENGTH, 1):
    logits, state = apply(parameters, column, state)
    cached_logits.append(logits)
  one_call = float(np.abs(np.asarray(one_call_logits) - reference_logits).max())
  return Agreement(
    sum(leaf.size for leaf in jax.tree.leaves(parameters)),
    float(reference_logits.std()),
    None if configuration in CACHED_ONLY else one_call,
    float(np.abs(np.concatenate(cached_logits, 1) - reference_cached_logits).max()),
  )


def _cached_reference_logits(reference: Any, tokens: Any) -> np.ndarray:
  """Computes the logits of a `transformers` model token by token with a cache."""
  transformers = optional.import_optional(
    'transformers', 'comparisons with transformers', 'interop')
  # The cache argument has different names in different releases of transformers 5.
  arguments = inspect.signature(reference.forward).parameters
  cache_argument = 'cache' if 'cache' in arguments else 'past_key_values'
  cache = {cache_argument: transformers.DynamicCache()}
  return np.concatenate([reference(column, use_cache=True, **cache).logits.numpy()
                         for column in tokens.split(1, 1)], 1)


def logit_difference_table() -> Table:
  """Makes the table of logit differences from `transformers`, one row per configuration."""
  return Table(
    'Logits of converted models and of transformers',
    ('model', 'parameters', 'std of logits', 'difference, one call', 'difference, cached'),
    [(name, *measure_logit_agreement(name)) for name in CONFIGURATIONS],
    f'Largest absolute difference of logits over {BATCH} sequences of {LENGTH} random tokens, in '
    'one call and token by token with a cache, in float32. The parameters are random, saved by '
    'transformers, and loaded by this repository.',
  )
