"""Grid cells that measure the durations of all layers at all lengths in interleaved rounds.

  train           a training step (loss, gradient and update) on a batch already on the device
  forward         the logits of the same batch
  layer           the outputs of one layer alone, without residual block, on as many random tokens
  layer_gradient  the outputs of that layer, and the gradients of its parameters and inputs for a
                  given gradient of the outputs
  repeat          a second measurement of the training step at the shortest length, whose difference
                  from the first is noise and therefore bounds the smallest credible difference
  generate        greedy decoding of some tokens from a given position in one compiled loop; the
                  state at this position results from a prompt of real text of that length (copying
                  it once per call is a part of the time)

All measurements of a grid cell use one device. A program is compiled ahead of time once for all
repetitions, and provides the time, the memory and the number of operations. A measurement that does
not fit into memory, at compilation or at execution, is recorded with the status 'out of memory',
and the other measurements are still made.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Iterable

import jax

from experiments.lab.cells import environment, experiment
from experiments.lab.cells import timed_programs as programs
from experiments.lab.cells.cell import OUT_OF_MEMORY, Cell, Outcome
from experiments.lab.cells.experiment import Experiment
from experiments.lab.cells.run import Run
from experiments.lab.measure import memory
from experiments.lab.measure.time import time_interleaved
from experiments.lab.training.step import Training

# Of these run settings, only the batch size affects durations.
# The batch size is computed from the number of tokens per step.
UNUSED_SETTINGS = (
  'batch_size', 'validations', 'validation_batches', 'test_batches', 'stop_when_solved',
  'test_lengths', 'beam', 'length_penalty', 'average',
)
# A timing cell stores these run settings under other names, for example `steps` as `rounds`.
VARIED_SETTINGS = ('layer', 'task', 'steps', 'seeds', 'learning_rates')
QUANTITIES = ('train', 'forward', 'layer', 'layer_gradient', 'generate')
PREPARATION_SHARE = 0.5  # share of a cell's progress that is attributed to compilation
PROMPT_CHUNK = 256  # tokens; a chunk this short needs little memory beside the state

_create_cached_experiment = functools.cache(experiment.create_experiment)


@dataclasses.dataclass
class Measurement:
  """The durations and memory use of one timed operation for one layer at one sequence length.

  Attributes:
    layer: spec of the layer.
    length: tokens of a sequence.
    quantity: the timed operation, 'repeat' or one of QUANTITIES.
    tokens: tokens that one call processes or generates.
    status: 'timeout' until times are measured, then 'finished'; or 'out of memory'.
    reason: first line of the error if memory did not suffice.
    bytes: temporary memory of the program; for 'generate', the size of the state.
    operations: arithmetic operations of one call, counted in the jaxpr; None for 'generate'.
    compile_seconds: time to compile the program, without tracing; None for 'generate'.
    seconds: duration of one call in each round.

  """

  layer: str
  length: int
  quantity: str
  tokens: int
  status: str = 'timeout'
  reason: str = ''
  bytes: int | None = None
  operations: int | None = None
  compile_seconds: float | None = None
  seconds: list[float] = dataclasses.field(default_factory=list)

  def store_error_if_out_of_memory(self, error: Exception) -> bool:
    """Returns whether an error reports a lack of memory, and stores such an error in the status."""
    exhausted = isinstance(error, jax.errors.JaxRuntimeError) and OUT_OF_MEMORY.search(str(error))
    if exhausted or isinstance(error, MemoryError):
      self.status, self.reason = 'out of memory', str(error).partition('\n')[0]
      return True
    return False


def timing_grid_cell_settings(
  run: Run, layers: Iterable[str], lengths: Iterable[int], timed_operations: Iterable[str], **sizes
) -> dict:
  """Returns the settings that, together with a seed, identify one cell of a timing grid.

  Args:
    run: settings of the timed layers.
    layers: specs of the layers.
    lengths: tokens of a sequence.
    timed_operations: operations to time, of QUANTITIES.
    **sizes: `tokens` of a step and number of `rounds`. To time generation, also the number of
      `sequences` in a batch and the number of tokens `generated` in each.

  Returns:
    JSON values by name.

  """
  omitted = UNUSED_SETTINGS + VARIED_SETTINGS
  return {
    'layers': list(layers),
    'lengths': list(lengths),
    'quantities': list(timed_operations),
    **sizes,
    'learning_rate': run.learning_rates[0],
    'settings': {k: v for k, v in run.to_json_values().items() if k not in omitted},
    'device': environment.device_name(),
  }


def create_timing_run(grid_cell_settings: dict, layer: str, length: int) -> Run:
  """Creates the run settings used to measure a layer at one sequence length.

  All repetitions share this run and hence its compiled programs. The seed of a repetition
  determines only the parameters and the data.

  Args:
    grid_cell_settings: settings from `timing_grid_cell_settings`.
    layer: spec of the layer.
    length: tokens of a sequence.

  Returns:
    A run on the task `text` with as many sequences as the tokens of a step require.

  """
  return Run(
    layer=layer,
    task=f'text(length={length})',
    batch_size=grid_cell_settings['tokens'] // length,
    steps=grid_cell_settings['rounds'],
    learning_rates=(grid_cell_settings['learning_rate'],),
    **grid_cell_settings['settings'],
  )


def create_or_reuse_timing_experiment(
    grid_cell_settings: dict, layer: str, length: int) -> Experiment:
  """Creates or reuses the experiment that measures a layer at one sequence length.

  Args:
    grid_cell_settings: settings from `timing_grid_cell_settings`.
    layer: spec of the layer.
    length: tokens of a sequence.

  Returns:
    The cached experiment.

  """
  return _create_cached_experiment(create_timing_run(grid_cell_settings, layer, length))


def create_timing_grid_cell(study: str, grid_cell_settings: dict, seed: int, label: str) -> Cell:
  """Creates the grid cell that measures the durations of all layers at all lengths with one seed.

  Args:
    study: name of the study.
    grid_cell_settings: settings from `timing_grid_cell_settings`.
    seed: seed of the repetition's parameters and data.
    label: short description for the progress bar.

  Returns:
    The cell, which expects a stored result to have the same budget of parameters.

  """
  shortest = create_or_reuse_timing_experiment(
    grid_cell_settings, grid_cell_settings['layers'][0], min(grid_cell_settings['lengths']))
  expected = {'budget': shortest.parameter_budget}
  return Cell(study, grid_cell_settings | {'seed': seed}, label, expected=expected)


def executor_for_timing_grid_cells(timeout: float):
  """Returns a function that performs all timing measurements of a grid cell.

  The function stops after `timeout` seconds.
  """
  return functools.partial(_execute_timing_grid_cell, timeout)


def _execute_timing_grid_cell(timeout: float, cell: Cell, report_progress) -> Outcome:
  deadline, run = time.monotonic() + timeout, cell.run
  timed_calls, calls = TimedCalls(run), {}
  measurements = [
    Measurement(layer, length, quantity, timed_calls.tokens_per_call(quantity))
    for length, layer, quantity in itertools.product(
      run['lengths'], run['layers'], run['quantities'])
  ]
  shortest, step_tokens = min(run['lengths']), timed_calls.tokens_per_call('train')
  measurements += [Measurement(layer, shortest, 'repeat', step_tokens) for layer in run['layers']]
  for i, measurement in enumerate(measurements):
    if time.monotonic() > deadline:
      break
    part = PREPARATION_SHARE * i / len(measurements)
    report_progress(part, f'{measurement.quantity} {measurement.layer} at {measurement.length}')
    try:
      calls[i] = timed_calls.prepare_timed_call(measurement)
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
      if not measurement.store_error_if_out_of_memory(error):
        raise
  times = time_interleaved(
    calls,
    run['rounds'],
    timeout=deadline - time.monotonic(),
    tolerate=lambda i, error: measurements[i].store_error_if_out_of_memory(error),
    progress=lambda part: report_progress(
      PREPARATION_SHARE + (1 - PREPARATION_SHARE) * part, f'{part:.0%} of the rounds'),
  )
  for i, seconds in times.items():
    measurements[i].seconds, measurements[i].status = seconds, 'finished' if seconds else 'timeout'
  experiments = timed_calls.experiments
  result = {
    'budget': experiments[run['layers'][0]].parameter_budget,
    'layers': {
      layer: matched.model_width_and_parameter_counts for layer, matched in experiments.items()},
    'points': [dataclasses.asdict(measurement) for measurement in measurements],
  }
  if untimed := sum(measurement.status == 'timeout' for measurement in measurements):
    return Outcome(result, 'timeout', f'{untimed} of {len(measurements)} points have no times')
  return Outcome(result)


class TimedCalls:
  """Compiled calls whose durations are measured, with their shared parameters and data."""

  def __init__(self, grid_cell_settings: dict):
    self.settings = grid_cell_settings
    self.experiments = {
      layer: self._experiment_at_length(layer) for layer in grid_cell_settings['layers']}
    self.states = {  # parameters do not depend on the length, so that the shortest serves for all
      layer: programs.initialise(
        self._create_trainer(layer), grid_cell_settings['seed'],
        grid_cell_settings['learning_rate'])
      for layer in grid_cell_settings['layers']
    }

  def tokens_per_call(self, operation: str) -> int:
    """Returns the number of tokens that one timed call processes or generates."""
    if operation == 'generate':
      return self.settings['sequences'] * self.settings['generated']
    return self.settings['tokens']

  def prepare_timed_call(self, measurement: Measurement):
    """Compiles the function call to be timed, and stores its memory use in the measurement."""
    state = self.states[measurement.layer]
    trainer = self._create_trainer(measurement.layer, measurement.length)
    if measurement.quantity == 'generate':
      prompt_state, token = self._prefill_prompt(measurement, trainer, state.parameters)
      measurement.bytes = memory.array_bytes(prompt_state)
      return functools.partial(
        programs.generate_tokens, trainer.model, state.parameters, prompt_state, token,
        self.settings['generated']
      )
    compiled, arguments = self._program_and_arguments(measurement, trainer, state)
    measurement.operations = compiled.operations
    measurement.compile_seconds = compiled.compile_seconds
    if memory_use := memory.program_memory(compiled.program):
      measurement.bytes = memory_use.temporary
    memory.require_available_memory(memory_use)
    return functools.partial(compiled.program, *arguments)

  def _program_and_arguments(self, measurement: Measurement, trainer: Training, state):
    """Returns the compiled program of a measurement, and the arguments of its call."""
    seed = self.settings['seed']
    if measurement.quantity in ('layer', 'layer_gradient'):
      matched = self.experiments[measurement.layer]
      single = programs.SingleLayer(
        matched.layer, matched.model_width_and_parameter_counts['width'], trainer)
      parameters, x, y_gradient = programs.layer_arguments(single, seed)
      if measurement.quantity == 'layer':
        return programs.compile_layer(single), (parameters, x)
      return programs.compile_layer_gradient(single), (parameters, x, y_gradient)
    batch = programs.batch(trainer.task, 'train', seed, trainer.recipe.batch_size)
    if measurement.quantity == 'forward':
      return programs.compile_forward_pass(trainer), (state.parameters, batch.source)
    return programs.compile_training_step(trainer), (state, batch)

  def _experiment_at_length(self, layer: str, length: int | None = None) -> Experiment:
    return create_or_reuse_timing_experiment(
      self.settings, layer, length or min(self.settings['lengths']))

  def _create_trainer(self, layer: str, length: int | None = None) -> Training:
    at_length = self._experiment_at_length(layer, length)
    return Training(self.experiments[layer].model, at_length.task, at_length.run)

  def _prefill_prompt(self, measurement: Measurement, trainer: Training, parameters):
    """Processes a prompt of the measured length, and returns the state and the next token."""
    model = trainer.model
    width = self.experiments[measurement.layer].model_width_and_parameter_counts['width']
    text = programs.batch(
      trainer.task, 'test', self.settings['seed'], self.settings['sequences']).source
    capacity = measurement.length + self.settings['generated']
    state = model.initial_state(self.settings['sequences'], capacity, width)
    for start in range(0, measurement.length, PROMPT_CHUNK):
      chunk = text[:, start : start + PROMPT_CHUNK]
      state, token = programs.decode_step(model, parameters, state, chunk)
    return state, token
