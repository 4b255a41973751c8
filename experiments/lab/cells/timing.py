"""Grid cells that measure the durations of all layers at all lengths in interleaved rounds.

  train     a training step (loss, gradient and update) on a batch that is already on the device
  forward   the logits of the same batch
  repeat    a second measurement of the training step at the shortest length, whose difference from
            the first is noise and therefore bounds the smallest credible difference
  generate  greedy decoding of some tokens from a given position in one compiled loop; the state at
            this position results from a prompt of real text of that length (copying it once per
            call is a part of the time)

All measurements of a grid cell use one device. A program is compiled ahead of time once for all
repetitions, and provides both the time and the memory. A point that does not fit into memory, at
compilation or at execution, is recorded with the status 'out of memory', and the other points are
still measured.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from experiments.lab.cells import environment, experiment
from experiments.lab.cells.cell import OUT_OF_MEMORY, Cell, Outcome
from experiments.lab.cells.experiment import Experiment
from experiments.lab.cells.run import Run
from experiments.lab.measure import memory
from experiments.lab.measure.time import time_interleaved
from experiments.lab.training.step import Training

# Run settings that do not affect durations, or that the number of tokens per step replaces.
UNUSED_SETTINGS = (
  'batch_size', 'validations', 'validation_batches', 'test_batches', 'stop_when_solved',
  'test_lengths', 'beam', 'length_penalty', 'average',
)
# Run settings that vary within a timing grid cell, which stores their values under other names.
VARIED_SETTINGS = ('layer', 'task', 'steps', 'seeds', 'learning_rates')
QUANTITIES = ('train', 'forward', 'generate')
PREPARATION_SHARE = 0.5  # share of a cell's progress that is attributed to compilation
PROMPT_CHUNK = 256  # tokens; a chunk this short needs little memory beside the state

_create_cached_experiment = functools.cache(experiment.create_experiment)


@dataclasses.dataclass
class Point:
  """The durations and memory of one quantity, such as 'train', for one layer at one length.

  Attributes:
    layer: spec of the layer.
    length: tokens of a sequence.
    quantity: 'train', 'forward', 'repeat' or 'generate'.
    tokens: tokens that one call processes or generates.
    status: 'timeout' until times are measured, then 'finished'; or 'out of memory'.
    reason: first line of the error if memory did not suffice.
    bytes: temporary memory of the program; for 'generate', the size of the state.
    seconds: duration of one call in each round.

  """

  layer: str
  length: int
  quantity: str
  tokens: int
  status: str = 'timeout'
  reason: str = ''
  bytes: int | None = None
  seconds: list[float] = dataclasses.field(default_factory=list)

  def record_if_out_of_memory(self, error: Exception) -> bool:
    """Returns whether an error reports a lack of memory, and stores such an error in the status."""
    exhausted = isinstance(error, jax.errors.JaxRuntimeError) and OUT_OF_MEMORY.search(str(error))
    if exhausted or isinstance(error, MemoryError):
      self.status, self.reason = 'out of memory', str(error).partition('\n')[0]
      return True
    return False


def timing_cell_settings(
  run: Run, layers: Iterable[str], lengths: Iterable[int], quantities: Iterable[str], **sizes
) -> dict:
  """Returns the settings that, together with a seed, identify a grid cell of time measurements.

  Args:
    run: settings of the timed layers.
    layers: specs of the layers.
    lengths: tokens of a sequence.
    quantities: quantities to time, of QUANTITIES.
    **sizes: `tokens` of a step and number of `rounds`. To time generation, also the number of
      `sequences` in a batch and the number of tokens `generated` in each.

  Returns:
    JSON values by name.

  """
  omitted = UNUSED_SETTINGS + VARIED_SETTINGS
  return {
    'layers': list(layers),
    'lengths': list(lengths),
    'quantities': list(quantities),
    **sizes,
    'learning_rate': run.learning_rates[0],
    'settings': {k: v for k, v in run.to_json_values().items() if k not in omitted},
    'device': environment.device_name(),
  }


def create_timing_run(values: dict, layer: str, length: int) -> Run:
  """Creates the run settings used to measure a layer at one sequence length.

  All repetitions share this run and hence its compiled programs. The seed of a repetition
  determines only the parameters and the data.

  Args:
    values: settings from `timing_cell_settings`.
    layer: spec of the layer.
    length: tokens of a sequence.

  Returns:
    A run on the task `text` with as many sequences as the tokens of a step require.

  """
  return Run(
    layer=layer,
    task=f'text(length={length})',
    batch_size=values['tokens'] // length,
    steps=values['rounds'],
    learning_rates=(values['learning_rate'],),
    **values['settings'],
  )


def cached_timing_experiment(values: dict, layer: str, length: int) -> Experiment:
  """Creates or reuses the experiment that measures a layer at one sequence length.

  Args:
    values: settings from `timing_cell_settings`.
    layer: spec of the layer.
    length: tokens of a sequence.

  Returns:
    The cached experiment.

  """
  return _create_cached_experiment(create_timing_run(values, layer, length))


def create_timing_cell(study: str, values: dict, seed: int, label: str) -> Cell:
  """Creates the grid cell that measures the durations of all layers at all lengths with one seed.

  Args:
    study: name of the study.
    values: settings from `timing_cell_settings`.
    seed: seed of the repetition's parameters and data.
    label: short description for the progress bar.

  Returns:
    The cell, which expects a stored result to have the same budget of parameters.

  """
  shortest = cached_timing_experiment(values, values['layers'][0], min(values['lengths']))
  expected = {'budget': shortest.parameter_budget}
  return Cell(study, values | {'seed': seed}, label, expected=expected)


def timing_executor(timeout: float):
  """Returns a function that measures all durations of a grid cell within `timeout` seconds."""
  return functools.partial(_execute_timing_cell, timeout)


def _execute_timing_cell(timeout: float, cell: Cell, report_progress) -> Outcome:
  deadline, run = time.monotonic() + timeout, cell.run
  timed_calls, calls = TimedCalls(run), {}
  points = [
    Point(layer, length, quantity, timed_calls.tokens_per_call(quantity))
    for length, layer, quantity in itertools.product(
      run['lengths'], run['layers'], run['quantities'])
  ]
  shortest, step_tokens = min(run['lengths']), timed_calls.tokens_per_call('train')
  points += [Point(layer, shortest, 'repeat', step_tokens) for layer in run['layers']]
  for i, point in enumerate(points):
    if time.monotonic() > deadline:
      break
    part = PREPARATION_SHARE * i / len(points)
    report_progress(part, f'{point.quantity} {point.layer} at {point.length}')
    try:
      calls[i] = timed_calls.prepare_call(point)
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
      if not point.record_if_out_of_memory(error):
        raise
  times = time_interleaved(
    calls,
    run['rounds'],
    timeout=deadline - time.monotonic(),
    tolerate=lambda i, error: points[i].record_if_out_of_memory(error),
    progress=lambda part: report_progress(
      PREPARATION_SHARE + (1 - PREPARATION_SHARE) * part, f'{part:.0%} of the rounds'),
  )
  for i, seconds in times.items():
    points[i].seconds, points[i].status = seconds, 'finished' if seconds else 'timeout'
  experiments = timed_calls.experiments
  result = {
    'budget': experiments[run['layers'][0]].parameter_budget,
    'layers': {layer: matched.matched_sizes for layer, matched in experiments.items()},
    'points': [dataclasses.asdict(point) for point in points],
  }
  if untimed := sum(point.status == 'timeout' for point in points):
    return Outcome(result, 'timeout', f'{untimed} of {len(points)} points have no times')
  return Outcome(result)


class TimedCalls:
  """Compiled calls whose durations are measured, with their shared parameters and data."""

  def __init__(self, values: dict):
    self.values = values
    self.experiments = {layer: self._experiment_at_length(layer) for layer in values['layers']}
    self.states = {  # parameters do not depend on the length, so that the shortest serves for all
      layer: _initialise(self._training_at_length(layer), values['seed'], values['learning_rate'])
      for layer in values['layers']
    }

  def tokens_per_call(self, quantity: str) -> int:
    """Returns the number of tokens that one timed call processes or generates."""
    if quantity == 'generate':
      return self.values['sequences'] * self.values['generated']
    return self.values['tokens']

  def prepare_call(self, point: Point):
    """Compiles the call that is timed for a point, and stores its memory use in the point."""
    state, training = self.states[point.layer], self._training_at_length(point.layer, point.length)
    if point.quantity == 'generate':
      prompt_state, token = self._process_prompt(point, training, state.parameters)
      point.bytes = memory.array_bytes(prompt_state)
      return functools.partial(
        _generate_tokens, training.model, state.parameters, prompt_state, token,
        self.values['generated']
      )
    quantity = 'train' if point.quantity == 'repeat' else point.quantity
    program = _compile_program(training, quantity)
    if memory_use := memory.program_memory(program):
      point.bytes = memory_use.temporary
    memory.require_available_memory(memory_use)
    batch = _batch(training.task, 'train', self.values['seed'], training.recipe.batch_size)
    if quantity == 'train':
      return functools.partial(program, state, batch)
    return functools.partial(program, state.parameters, batch.source)

  def _experiment_at_length(self, layer: str, length: int | None = None) -> Experiment:
    return cached_timing_experiment(self.values, layer, length or min(self.values['lengths']))

  def _training_at_length(self, layer: str, length: int | None = None) -> Training:
    at_length = self._experiment_at_length(layer, length)
    return Training(self.experiments[layer].model, at_length.task, at_length.run)

  def _process_prompt(self, point: Point, training: Training, parameters):
    """Processes a prompt of the point's length, and returns the state and the next token."""
    model, width = training.model, self.experiments[point.layer].matched_sizes['width']
    text = _batch(training.task, 'test', self.values['seed'], self.values['sequences']).source
    capacity = point.length + self.values['generated']
    state = model.initial_state(self.values['sequences'], capacity, width)
    for start in range(0, point.length, PROMPT_CHUNK):
      state, token = _decode_step(model, parameters, state, text[:, start : start + PROMPT_CHUNK])
    return state, token


_batch = jax.jit(
  lambda task, split, index, size: task.batch(split, index, size), static_argnums=(0, 1, 3)
)
_initialise = jax.jit(Training.initialise, static_argnums=0)


@functools.cache
def _compile_program(training: Training, quantity: str):
  """Compiles a training step or a forward pass for the shape of the task's training batches."""
  number = functools.partial(jax.ShapeDtypeStruct, ())
  state = jax.eval_shape(training.initialise, number(jnp.int32), number(jnp.float32))
  batch = jax.eval_shape(lambda: training.task.batch('train', 0, training.recipe.batch_size))
  if quantity == 'train':
    return jax.jit(training.train_step).lower(state, batch).compile()
  logits = jax.jit(lambda parameters, source: training.model.apply(parameters, source)[0])
  return logits.lower(state.parameters, batch.source).compile()


@functools.partial(jax.jit, static_argnums=0)
def _decode_step(model, parameters, state, tokens):
  """Processes tokens [B, T], and returns the new state and the most likely next token [B, 1]."""
  logits, state = model.apply(parameters, tokens, state)
  return state, jnp.argmax(logits[:, -1:], -1).astype(tokens.dtype)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _generate_tokens(model, parameters, state, token, num_tokens: int):
  """Generates `num_tokens` tokens greedily, and returns the new state and the last token."""
  def generate_token(carry, _):
    return _decode_step(model, parameters, *carry), None

  return jax.lax.scan(generate_token, (state, token), length=num_tokens)[0]
