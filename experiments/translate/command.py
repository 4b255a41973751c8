"""Translation of a sentence by beam search with the stored weights of an encoder-decoder."""

import functools
import json

import jax
import jax.numpy as jnp

from experiments.lab.cells import checks, experiment, models
from experiments.lab.cells.run import create_run_from_json
from experiments.lab.corpora.reserved import END, PAD, START
from experiments.lab.errors import BadInput
from experiments.lab.launch import flags
from experiments.lab.weights import files, safetensors
from transformer.decoding import beam_search

MAX_CHARACTERS = 2000  # because the time of a search grows with their square
MAX_BEAM = 256  # because every hypothesis has a copy of the model's state
MAX_LENGTH_PENALTY = 10  # because the divisor overflows float32 at 100
EXTRA_TOKENS = 50  # of a translation, beyond those of its source (Vaswani et al. 2017, 6.1)


def main() -> None:
  """Prints translations of the sentence in --text, in descending order of beam-search score."""
  args = flags.FLAGS
  if not args.weights or args.text is None:
    raise BadInput('both --weights=FILE and --text=SENTENCE are needed')
  if not 1 <= args.beam <= MAX_BEAM or not 0 <= args.length_penalty <= MAX_LENGTH_PENALTY:
    raise BadInput(f'--beam must be from 1 to {MAX_BEAM} and --length_penalty from 0 to '
                   f'{MAX_LENGTH_PENALTY}, not {args.beam} and {args.length_penalty:g}')
  require_valid_sentence(args.text)
  model, parameters, task = load_translator(args.weights)
  try:
    source = task.tokenize(args.text)
  except ValueError as error:
    raise BadInput(f'{error!s:.300}') from None  # cut off, because it may repeat the text
  for score, text in _beam_search_translations(model, parameters, task, source):
    print(f'{score:8.3f}  {text}')


def require_valid_sentence(text: str) -> None:
  """Raises BadInput unless a text is valid UTF-8 of at most `MAX_CHARACTERS` characters."""
  try:
    text.encode()
  except UnicodeEncodeError:  # Python decodes invalid bytes of a command to lone surrogates
    raise BadInput('--text is not UTF-8 text, because it has an invalid byte or a lone '
                   'surrogate') from None
  if len(text) > MAX_CHARACTERS:
    raise BadInput(f'--text has {len(text)} characters, and a sentence has at most '
                   f'{MAX_CHARACTERS}, so translate the sentences one by one')


def load_translator(path: str):
  """Loads an encoder-decoder, its parameters and its task from a file of weights.

  Raises BadInput if the file is not that of an encoder-decoder.
  """
  run = read_stored_run_settings(path)
  try:
    resolved = experiment.create_experiment(run)
    if resolved.task.model_kind != 'translator':
      raise BadInput(f'{run.task} is not a translation task')
    checks.check_experiment(resolved)
    model, task = resolved.model, resolved.task
  except ValueError as error:
    raise BadInput(f'{path} does not contain an encoder-decoder: {error!s:.300}') from None
  arguments, named = jax.eval_shape(task.model_arguments, models.batch_shapes(task))
  like = jax.eval_shape(model.init, jax.random.key(0), *arguments, **named)
  return model, files.load_parameters(path, like, {'vocabulary': task.digest}), task


def read_stored_run_settings(path: str):
  """Reads the run settings in a file of weights.

  Raises BadInput if the settings are missing or invalid.
  """
  metadata = safetensors.Archive(path).metadata
  if 'run' not in metadata:
    raise BadInput(f'{path} has no settings of a run, because it was not stored by a study')
  try:
    values = json.loads(metadata['run'])
    if not isinstance(values, dict):
      raise ValueError('they are not a JSON object')
    return create_run_from_json(values)
  except (ValueError, RecursionError) as error:
    raise BadInput(f'{path} has invalid settings of a run: {error!s:.300}') from None


def _beam_search_translations(model, parameters, task, source: list[int]):
  """Yields the score and text of each beam-search hypothesis, in descending order of score.

  Args:
    model: the encoder-decoder.
    parameters: the parameters of the model.
    task: the translation task, with the vocabulary.
    source: the tokens of the source.

  Yields:
    Pairs of a score and a text.

  Raises:
    BadInput: if the model has too few positions, or if a score is not finite.

  """
  args, length = flags.FLAGS, len(source) + EXTRA_TOKENS
  for stack in (model.encoder, model.decoder):
    max_length = getattr(stack.input_layer, 'max_length', None)
    if max_length is not None and length > max_length:
      raise BadInput(f'{len(source)} tokens of the source and {EXTRA_TOKENS} more need {length} '
                     f'positions, but this model has {max_length}')

  @jax.jit
  def run_beam_search(parameters, source):
    apply = functools.partial(model.apply, parameters)
    state = apply(source, capacity=length, method='encode')
    return beam_search(
      functools.partial(apply, method='decode'), state, jnp.full(1, START), length, END, PAD,
      beam_size=args.beam, length_penalty=args.length_penalty,
    )

  hypotheses = run_beam_search(parameters, jnp.array([source]))
  if jnp.isnan(hypotheses.scores).any():
    raise BadInput('the scores of this text are not finite, because the weights are damaged or '
                   'overflow')
  for tokens, score in zip(hypotheses.tokens[0], hypotheses.scores[0], strict=True):
    if score > -jnp.inf:
      yield float(score), task.detokenize(tokens)
