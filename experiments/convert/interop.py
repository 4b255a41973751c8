"""Our models against those of `transformers` with the same weights; the only place that knows it.

For every kind of model that can be loaded, a small one of theirs is drawn at random, saved as they
save it, and loaded as ours. Both read the same tokens, at once and one by one with a cache.
"""

import inspect
import tempfile
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.convert import converters as weights
from experiments.lab import optional
from experiments.lab.results.table import Table

BATCH, LENGTH, VOCABULARY, WIDTH, DEPTH = 2, 24, 97, 32, 3
GPT2 = {'n_embd': WIDTH, 'n_head': 4, 'n_layer': DEPTH, 'n_positions': 32}
LLAMA = {
  'hidden_size': WIDTH, 'num_attention_heads': 4, 'num_key_value_heads': 2, 'intermediate_size': 40,
  'num_hidden_layers': DEPTH, 'head_dim': 8, 'max_position_embeddings': 64,
}
WAVES = {  # within 32 tokens the pairs of channels turn 5.1, 1.7 (a mixture), 0.1 times or fewer
  'rope_type': 'llama3', 'rope_theta': 1e4, 'factor': 8.0, 'low_freq_factor': 1.0,
  'high_freq_factor': 4.0, 'original_max_position_embeddings': 32,
}
LINEAR = {'rope_type': 'linear', 'rope_theta': 1e4, 'factor': 3.0}
YARN = {  # of the four pairs of channels one is kept, one is a mixture, two are stretched
  'rope_type': 'yarn', 'rope_theta': 1e2, 'factor': 4.0, 'original_max_position_embeddings': 64,
  'beta_fast': 8.0, 'beta_slow': 2.0,
}
DYNAMIC = {'rope_type': 'dynamic', 'rope_theta': 1e4, 'factor': 3.0}
CONFIGURATIONS = {
  'GPT-2': ('GPT2', GPT2),
  'GPT-2, untied, narrow': ('GPT2', {**GPT2, 'tie_word_embeddings': False, 'n_inner': 48}),
  'GPT-2, exact GELU': ('GPT2', {**GPT2, 'activation_function': 'gelu'}),
  'Llama': ('Llama', {**LLAMA, 'num_key_value_heads': 4}),
  'Llama, grouped heads, tied': ('Llama', {**LLAMA, 'tie_word_embeddings': True}),
  'Llama, one key head, biases': (
    'Llama', {**LLAMA, 'num_key_value_heads': 1, 'attention_bias': True, 'rms_norm_eps': 1e-5}),
  'Llama, linear positions': ('Llama', {**LLAMA, 'rope_parameters': LINEAR}),
  'Llama 3.1': ('Llama', {**LLAMA, 'rope_parameters': WAVES}),
  'Llama, YaRN': ('Llama', {**LLAMA, 'rope_parameters': YARN}),
  'Llama, YaRN, other slopes': ('Llama', {
    **LLAMA, 'rope_parameters': {**YARN, 'mscale': 2.0, 'mscale_all_dim': 0.5, 'truncate': False}}),
  'Llama, dynamic positions': ('Llama', {**LLAMA, 'rope_parameters': DYNAMIC}),
  'Llama, dynamic, too long': ('Llama', {
    **LLAMA, 'rope_parameters': DYNAMIC, 'max_position_embeddings': 7}),
  'Mistral, window of 5': ('Mistral', {**LLAMA, 'sliding_window': 5}),
  'Qwen2': ('Qwen2', {k: v for k, v in LLAMA.items() if k != 'head_dim'}),
  'Qwen3, epsilon of 0.01': ('Qwen3', {**LLAMA, 'rms_norm_eps': 1e-2}),
  'Qwen3, wide heads': ('Qwen3', {**LLAMA, 'head_dim': 16}),
}


# Beyond their trained length, dynamic positions of transformers answer a text that is read at once
# in another way than one that is read token by token; ours answer both in the latter way.
CACHED_ONLY = frozenset({'Llama, dynamic, too long'})


class Agreement(NamedTuple):
  """How far apart the logits of one kind of model are."""

  parameters: int
  spread: float  # the standard deviation of theirs
  prompt: float | None  # the largest difference, all tokens read at once; None: they have none
  cached: float  # the same, one token after another


def random_model(name: str) -> Any:
  """A small model of theirs whose every parameter was drawn."""
  torch = optional.load('torch', 'comparisons with transformers', 'interop')
  theirs = optional.load('transformers', 'comparisons with transformers', 'interop')
  kind, options = CONFIGURATIONS[name]
  theirs.utils.logging.disable_progress_bar()
  ends = {'bos_token_id': None, 'eos_token_id': None}  # none of the few tokens is one
  config = getattr(theirs, f'{kind}Config')(vocab_size=VOCABULARY, **ends, **options)
  model = getattr(theirs, 'GPT2LMHeadModel' if kind == 'GPT2' else f'{kind}ForCausalLM')(config)
  generator = torch.Generator().manual_seed(0)
  with torch.no_grad():
    for parameter in model.parameters():
      # At their own initial values attention would be flat, and norms would be ones.
      noise = torch.randn(parameter.shape, generator=generator)
      parameter.copy_(noise * 0.3 if parameter.ndim > 1 else 1 + 0.3 * noise)
  return model.eval()


def agreement(name: str) -> Agreement:
  """One kind of model, saved and loaded in a folder that is gone afterwards."""
  torch = optional.load('torch', 'comparisons with transformers', 'interop')
  theirs = random_model(name)
  with tempfile.TemporaryDirectory() as folder:
    theirs.save_pretrained(folder)
    ours, parameters = weights.load(folder)
  tokens = np.random.default_rng(0).integers(0, VOCABULARY, (BATCH, LENGTH))
  with torch.no_grad():
    whole = theirs(torch.tensor(tokens)).logits.numpy()
    stepped = _stepped(theirs, torch.tensor(tokens))
  read = jax.jit(ours.apply)
  prompt, _ = read(parameters, tokens)
  cached, state = [], ours.initial_state(BATCH, LENGTH, WIDTH)
  for column in np.split(tokens, LENGTH, 1):
    logits, state = read(parameters, column, state)
    cached.append(logits)
  return Agreement(
    sum(leaf.size for leaf in jax.tree.leaves(parameters)),
    float(whole.std()),
    None if name in CACHED_ONLY else float(np.abs(np.asarray(prompt) - whole).max()),
    float(np.abs(np.concatenate(cached, 1) - stepped).max()),
  )


def _stepped(theirs: Any, tokens: Any) -> np.ndarray:
  """Their logits, one token after another with a cache."""
  library = optional.load('transformers', 'comparisons with transformers', 'interop')
  known = inspect.signature(theirs.forward).parameters  # the argument has two names in version 5
  cache = {'cache' if 'cache' in known else 'past_key_values': library.DynamicCache()}
  return np.concatenate([theirs(column, use_cache=True, **cache).logits.numpy()
                         for column in tokens.split(1, 1)], 1)


def table() -> Table:
  """All kinds of models."""
  return Table(
    'Logits of ours and of transformers',
    ('model', 'parameters', 'standard deviation', 'difference, at once', 'difference, cached'),
    [(name, *agreement(name)) for name in CONFIGURATIONS],
    f'The largest difference over {BATCH} rows of {LENGTH} random tokens, read at once and one by '
    'one with a cache, in float32, with random weights that theirs saved and ours loaded.',
  )
