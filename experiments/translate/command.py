"""Loads a trained translator, and prints what it answers."""

import functools
import json

import jax
import jax.numpy as jnp

from experiments.lab.cells import checks, experiment, models
from experiments.lab.cells.run import run_from
from experiments.lab.corpora.reserved import END, PAD, START
from experiments.lab.errors import BadInput
from experiments.lab.launch import flags
from experiments.lab.weights import files, safetensors
from transformer.decoding import beam_search

LONGEST = 2000  # characters of a sentence; a search takes time in proportion to their square
WIDEST = 256  # beam: that many copies of the model's state are kept
STEEPEST = 10  # length penalty: with one of 100 the divisor leaves float32
LONGER = 50  # tokens that an answer may have more than its source (Vaswani et al. 2017, 6.1)


def main() -> None:
  """Prints the answers, the best first, each with its score."""
  given = flags.FLAGS
  if not given.weights or given.text is None:
    raise BadInput('--weights=FILE is who translates, --text is what')
  if not 1 <= given.beam <= WIDEST or not 0 <= given.length_penalty <= STEEPEST:
    raise BadInput(f'--beam is 1 or more, up to {WIDEST}, and --length_penalty is from 0 to '
                   f'{STEEPEST}, not {given.beam} and {given.length_penalty:g}')
  check_text(given.text)
  model, parameters, task = load(given.weights)
  try:
    source = task.tokens(given.text)
  except ValueError as error:
    raise BadInput(f'{error!s:.300}') from None  # it may repeat the text
  for score, text in translations(model, parameters, task, source):
    print(f'{score:8.3f}  {text}')


def check_text(text: str) -> None:
  """BadInput for what is no text, or more than a sentence."""
  try:
    text.encode()
  except UnicodeEncodeError:  # bytes of the command that are not UTF-8 arrive as lone surrogates
    raise BadInput('--text is not UTF-8 text: it has a byte or a surrogate of its own') from None
  if len(text) > LONGEST:
    raise BadInput(f'--text has {len(text)} characters; a sentence has at most {LONGEST}: '
                   'translate sentence by sentence')


def load(path: str):
  """The model, its parameters and its task; BadInput for a file that is no translator's."""
  run = run_of(path)
  try:
    one = experiment.resolve(run)
    if one.task.answered_by != 'translator':
      raise BadInput(f'{run.layer} on {run.task} is no translation')
    checks.check(one)
    model, task = one.model, one.task
  except ValueError as error:
    raise BadInput(f'{path} cannot translate: {error!s:.300}') from None
  arguments, named = jax.eval_shape(task.arguments, models.shapes_of(task))
  like = jax.eval_shape(model.init, jax.random.key(0), *arguments, **named)
  return model, files.load(path, like, {'vocabulary': task.digest}), task


def run_of(path: str):
  """The run that kept a file of weights; BadInput where the file does not say it."""
  metadata = safetensors.Archive(path).metadata
  if 'run' not in metadata:
    raise BadInput(f'{path} does not say which run it is of: it was not kept by a study')
  try:
    values = json.loads(metadata['run'])
    if not isinstance(values, dict):
      raise ValueError('it is no JSON object')
    return run_from(values)
  except (ValueError, RecursionError) as error:
    raise BadInput(f'{path} names a run that cannot be: {error!s:.300}') from None


def translations(model, parameters, task, source: list[int]):
  """Scores and texts of what a beam finds, the best first."""
  given, length = flags.FLAGS, len(source) + LONGER
  for stack in (model.encoder, model.decoder):
    most = getattr(stack.input_layer, 'max_length', None)
    if most is not None and length > most:
      raise BadInput(f'{len(source)} tokens and {LONGER} more need {length} positions; '
                     f'this model has {most}')

  @jax.jit
  def search(parameters, source):
    apply = functools.partial(model.apply, parameters)
    state = apply(source, capacity=length, method='encode')
    return beam_search(
      functools.partial(apply, method='decode'), state, jnp.full(1, START), length, END, PAD,
      beam_size=given.beam, length_penalty=given.length_penalty,
    )

  found = search(parameters, jnp.array([source]))
  if jnp.isnan(found.scores).any():
    raise BadInput('the model gives no finite scores for this text: its weights are damaged, '
                   'or overflow on it')
  for tokens, score in zip(found.tokens[0], found.scores[0], strict=True):
    if score > -jnp.inf:
      yield float(score), task.text(tokens)
