"""Converts a checkpoint, goes on from a prompt, or compares with `transformers`."""

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
from transformer.decoding import greedy, read_prompt
from transformer.stretched_rotary import DynamicRotary

MOST_TOKENS = 2**24  # up to which float32 has every whole number, and so every position


def main() -> None:
  """Converts, or compares."""
  given = flags.FLAGS
  if given.check:
    print(interop.table().text(shutil.get_terminal_size((120, 24)).columns))
    return
  if not given.checkpoint:
    raise BadInput('--checkpoint=FOLDER is what to convert; --check compares and needs none')
  if given.prompt is not None and given.prompt_ids is not None:
    raise BadInput('a prompt is --prompt or --prompt_ids, not both')
  folder = pathlib.Path(given.checkpoint).expanduser()
  tokenizer = None if given.prompt is None else _tokenizer(folder)
  prompt = _encoded(tokenizer, given.prompt) if tokenizer else _numbers(given.prompt_ids)


  model, parameters = converters.load(folder)
  print(model)
  print(f'{sum(leaf.size for leaf in jax.tree.leaves(parameters)):,} parameters')
  if given.out:
    files.save(given.out, parameters, _metadata(folder, model))
    print(f'written: {given.out}')
  if prompt is not None:
    written = generate(model, parameters, prompt, given.generate, converters.ends(folder))
    print(tokenizer.decode([*prompt, *written]) if tokenizer else ','.join(map(str, written)))


def generate(
  model, parameters, prompt: list[int], count: int, ends: tuple[int, ...] = ()
) -> list[int]:
  """The tokens that a model writes after a prompt, each the likeliest.

  Args:
    model: as `weights.load` returns it.
    parameters: the model's.
    prompt: one token or more.
    count: the most tokens to write.
    ends: tokens after which no more is written.

  """
  capacity = len(prompt) - 1 + count  # the last token that is written is not read
  _check_lengths(model, prompt, count)

  @jax.jit
  def write(parameters, prompt):
    def step(tokens, state, mask=None):
      return model.apply(parameters, tokens, state, mask=mask)

    state = model.initial_state(1, capacity, model.embedding.features)
    state, start = read_prompt(step, state, prompt, jnp.array([prompt.shape[1]]))
    return greedy(step, state, start, count, end=ends or -1, pad=0)

  prompt = jnp.array([prompt])
  program = write.lower(parameters, prompt).compile()
  try:
    memory.require(memory.of_program(program))
  except MemoryError as error:
    raise BadInput(f'{capacity} tokens are too many for this machine: {error}') from None
  written = program(parameters, prompt)
  if written.broken[0]:
    raise BadInput(f'the model gives no finite scores after {int(written.lengths[0])} new tokens: '
                   'its parameters are damaged, or overflow on this prompt')
  return written.tokens[0, : int(written.lengths[0])].tolist()


def _check_lengths(model, prompt: list[int], count: int) -> None:
  """BadInput for a prompt that a model cannot read, or a text for which it has no positions."""
  size = model.embedding.num_embeddings
  if not prompt or not all(0 <= token < size for token in prompt):
    raise BadInput(f'a prompt is one token or more, each from 0 to {size - 1}')
  if not 1 <= count <= MOST_TOKENS:
    raise BadInput(f'--generate is at least 1 and at most {MOST_TOKENS}, not {count}')
  longest = getattr(model.stack.input_layer, 'max_length', math.inf)
  if (capacity := len(prompt) - 1 + count) > longest:
    raise BadInput(f'{len(prompt)} tokens and {count} more need {capacity} positions; '
                   f'this model has {longest}')
  positions = model.stack.layers[0].layer.positions
  if isinstance(positions, DynamicRotary) and len(prompt) > positions.trained_length:
    raise BadInput(
      f'a prompt of {len(prompt)} tokens is longer than the {positions.trained_length} up to which '
      'dynamic positions do not depend on how a text is read'
    )


def _numbers(text: str | None) -> list[int] | None:
  try:
    return None if text is None else [int(part) for part in text.split(',')]
  except ValueError:
    raise BadInput(
      f'--prompt_ids takes whole numbers separated by commas, not {text!r:.100}'
    ) from None


def _tokenizer(folder: pathlib.Path):
  """What makes tokens of text for a checkpoint, and text of tokens."""
  library = optional.load('tokenizers', 'prompts in words', 'weights')
  path = folder / TOKENIZER
  if not path.exists():
    raise BadInput(f'{folder} has no {TOKENIZER}: give the tokens themselves with --prompt_ids')
  try:
    return library.Tokenizer.from_file(str(path))
  except Exception as error:  # the library raises nothing more special
    raise BadInput(f'{path} is no tokenizer: {_line(error)}') from None


def _encoded(tokenizer, text: str) -> list[int]:
  """The tokens of a prompt."""
  try:
    text.encode()  # bytes of the command that are not UTF-8 arrive as lone surrogates
    return tokenizer.encode(text).ids
  except UnicodeEncodeError:
    raise BadInput('--prompt is not UTF-8 text: it has a byte or a surrogate of its own') from None
  except Exception as error:  # the library raises nothing more special
    raise BadInput(f'the {TOKENIZER} cannot read this prompt: {_line(error)}') from None


def _line(error: Exception) -> str:
  return ''.join(str(error).splitlines()[:1])


def _metadata(folder: pathlib.Path, model) -> dict[str, str]:
  """What a file says of its parameters: their model, and what their tokens mean, if known."""
  said = {'model': str(model), 'config': (folder / 'config.json').read_text(encoding='utf-8')}
  if (path := folder / TOKENIZER).exists():
    said['vocabulary'] = hashlib.sha256(path.read_bytes()).hexdigest()
  return said
