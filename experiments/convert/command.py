"""Converts a checkpoint, continues a prompt, or compares logits with `transformers`."""

import hashlib
import math
import pathlib
import shutil

import jax
import jax.numpy as jnp

from experiments.convert import converters, interop
from experiments.convert.checkpoint import TOKENIZER
from experiments.lab import optional
from experiments.lab.errors import BadInput
from experiments.lab.launch import flags
from experiments.lab.measure import memory
from experiments.lab.weights import files
from transformer.decoding import greedy_search, prefill
from transformer.stretched_rotary import DynamicRotary

MAX_TOKENS = 2**24  # float32 represents all positions below this number exactly


def main() -> None:
  """Converts a checkpoint, generates text, or compares logits, as the flags request."""
  given = flags.FLAGS
  if given.check:
    print(interop.logit_difference_table().text(shutil.get_terminal_size((120, 24)).columns))
    return
  if not given.checkpoint:
    raise BadInput('--checkpoint=FOLDER is required, except with --check')
  if given.prompt is not None and given.prompt_ids is not None:
    raise BadInput('--prompt and --prompt_ids exclude each other, so set only one of them')
  folder = pathlib.Path(given.checkpoint).expanduser()
  tokenizer = None if given.prompt is None else _load_tokenizer(folder)
  prompt = (
    _encode_prompt(tokenizer, given.prompt) if tokenizer else _parse_token_ids(given.prompt_ids))

  model, parameters = converters.load_model(folder)
  print(model)
  print(f'{sum(leaf.size for leaf in jax.tree.leaves(parameters)):,} parameters')
  if given.out:
    files.save_parameters(given.out, parameters, _converted_file_metadata(folder, model))
    print(f'written: {given.out}')
  if prompt is not None:
    generated = generate_greedily(
      model, parameters, prompt, given.generate, converters.read_end_tokens(folder))
    print(tokenizer.decode([*prompt, *generated]) if tokenizer else ','.join(map(str, generated)))


def generate_greedily(
  model, parameters, prompt: list[int], max_tokens: int, end_tokens: tuple[int, ...] = ()
) -> list[int]:
  """Generates tokens after a prompt, choosing the most likely token at every step.

  Args:
    model: Model that `converters.load_model` returns.
    parameters: Variables of the model.
    prompt: Token ids, at least one.
    max_tokens: Largest number of tokens to generate.
    end_tokens: Tokens after which the text is complete.

  Returns:
    The generated token ids, with the end token if one was generated.

  Raises:
    BadInput: The prompt or the length is invalid, memory is insufficient, or logits are not finite.

  """
  capacity = len(prompt) - 1 + max_tokens  # the last generated token is not an input
  _check_prompt_and_lengths(model, prompt, max_tokens)

  @jax.jit
  def continue_prompt(parameters, prompt):
    def decoding_step(tokens, state, mask=None):
      return model.apply(parameters, tokens, state, mask=mask)

    state = model.initial_state(1, capacity, model.embedding.features)
    state, start = prefill(decoding_step, state, prompt, jnp.array([prompt.shape[1]]))
    return greedy_search(
      decoding_step, state, start, max_tokens, end_tokens=end_tokens or -1, pad_token=0)

  prompt = jnp.array([prompt])
  program = continue_prompt.lower(parameters, prompt).compile()
  try:
    memory.require_available_memory(memory.program_memory(program))
  except MemoryError as error:
    raise BadInput(f'{capacity} tokens are too many for this machine: {error}') from None
  generated = program(parameters, prompt)
  length = int(generated.lengths[0])
  if generated.broken[0]:
    raise BadInput(f'the model gives no finite scores after {length} new tokens, so its parameters '
                   'are damaged or overflow on this prompt')
  return generated.tokens[0, :length].tolist()


def _check_prompt_and_lengths(model, prompt: list[int], max_tokens: int) -> None:
  """Raises a BadInput for invalid token ids, or for more tokens than the model supports."""
  vocabulary = model.embedding.num_embeddings
  if not prompt or not all(0 <= token < vocabulary for token in prompt):
    raise BadInput(f'a prompt needs at least one token id, and each from 0 to {vocabulary - 1}')
  if not 1 <= max_tokens <= MAX_TOKENS:
    raise BadInput(f'--generate must be from 1 to {MAX_TOKENS}, not {max_tokens}')
  max_positions = getattr(model.stack.input_layer, 'max_length', math.inf)
  if (capacity := len(prompt) - 1 + max_tokens) > max_positions:
    raise BadInput(f'a prompt of {len(prompt)} tokens and {max_tokens} generated tokens need '
                   f'{capacity} positions, but this model has {max_positions}')
  positions = model.stack.layers[0].layer.positions
  if isinstance(positions, DynamicRotary) and len(prompt) > positions.trained_length:
    raise BadInput(
      f'a prompt of {len(prompt)} tokens is longer than the trained length of '
      f'{positions.trained_length}, which is the limit of prompts with dynamic rotary positions'
    )


def _parse_token_ids(text: str | None) -> list[int] | None:
  try:
    return None if text is None else [int(part) for part in text.split(',')]
  except ValueError:
    raise BadInput(
      f'--prompt_ids takes whole numbers separated by commas, not {text!r:.100}'
    ) from None


def _load_tokenizer(folder: pathlib.Path):
  library = optional.import_optional('tokenizers', 'text prompts', 'weights')
  path = folder / TOKENIZER
  if not path.exists():
    raise BadInput(f'{folder} has no {TOKENIZER}, so give token ids with --prompt_ids')
  try:
    return library.Tokenizer.from_file(str(path))
  except Exception as error:  # the library raises no specific class of errors
    raise BadInput(f'{path} is not a valid tokenizer: {_first_line_of_error(error)}') from None


def _encode_prompt(tokenizer, text: str) -> list[int]:
  try:
    text.encode()  # raises for lone surrogates, which stand for invalid bytes of the command
    return tokenizer.encode(text).ids
  except UnicodeEncodeError:
    raise BadInput('--prompt is not UTF-8 text, because it contains an invalid byte') from None
  except Exception as error:  # the library raises no specific class of errors
    raise BadInput(
      f'the {TOKENIZER} cannot encode this prompt: {_first_line_of_error(error)}') from None


def _first_line_of_error(error: Exception) -> str:
  return ''.join(str(error).splitlines()[:1])


def _converted_file_metadata(folder: pathlib.Path, model) -> dict[str, str]:
  """Returns metadata for the converted file, namely the model, config and tokenizer hash."""
  metadata = {
    'model': str(model), 'config': (folder / 'config.json').read_text(encoding='utf-8')}
  if (path := folder / TOKENIZER).exists():
    metadata['vocabulary'] = hashlib.sha256(path.read_bytes()).hexdigest()
  return metadata
