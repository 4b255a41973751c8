"""One cell of times: every layer at every length, doing every thing, in turns on one device.

  train     a training step: loss, gradient, update, on a batch that lies ready
  forward   the logits of the same batch
  repeat    the training step at the shortest length once more: what it seems to differ by from
            itself is noise, and no difference that is smaller can be believed
  generate  tokens one after another, each the likeliest after those before, from a position on, in
            one compiled loop; the state there is that of a model that has really read as many
            tokens of text (a call's one copy of it is part of the time)

A program is compiled ahead of time once for all repetitions, and gives both the time and the
memory. What does not fit into memory, at compilation or later, is a point of its own kind and no
reason to leave out the other points.
"""

import dataclasses
import functools
import itertools
import time
from collections.abc import Iterable

import jax
import jax.numpy as jnp

from experiments.lab.cells import environment, experiment
from experiments.lab.cells.cell import EXHAUSTED, Cell, Outcome
from experiments.lab.cells.experiment import Experiment
from experiments.lab.cells.run import Run
from experiments.lab.measure import memory
from experiments.lab.measure.time import interleaved
from experiments.lab.training.step import Training

# What a run can be told and no time depends on; the first follows from the tokens of a step.
UNUSED = (
  'batch_size', 'validations', 'validation_batches', 'test_batches', 'stop_when_solved',
  'test_lengths', 'beam', 'length_penalty', 'average',
)
VARIED = ('layer', 'task', 'steps', 'seeds', 'learning_rates')  # a cell has them in other ways
QUANTITIES = ('train', 'forward', 'generate')
PREPARING = 0.5  # of a cell's progress
READ_AT_ONCE = 256  # tokens of a prompt: few enough that any state fits beside what reading takes

_resolved = functools.cache(experiment.resolve)


@dataclasses.dataclass
class Point:
  """What was measured of one layer, doing one thing, at one length."""

  layer: str
  length: int
  quantity: str
  tokens: int  # that a call reads or writes
  status: str = 'timeout'  # until there are times
  reason: str = ''
  bytes: int | None = None  # temporary ones of the program; for `generate`, those of the state
  seconds: list[float] = dataclasses.field(default_factory=list)  # a call, one a round

  def excused(self, error: Exception) -> bool:
    """Whether an error says that memory is short: then that is what was measured."""
    refused = isinstance(error, jax.errors.JaxRuntimeError) and EXHAUSTED.search(str(error))
    if refused or isinstance(error, MemoryError):
      self.status, self.reason = 'out of memory', str(error).partition('\n')[0]
      return True
    return False


def asked(
  run: Run, layers: Iterable[str], lengths: Iterable[int], quantities: Iterable[str], **sizes
) -> dict:
  """What identifies the cells of times of layers at lengths, but for their seeds.

  `sizes` are the `tokens` of a step and the `rounds`; to generate, also how many `sequences` side
  by side, and how many tokens of each are `generated`.
  """
  return {
    'layers': list(layers),
    'lengths': list(lengths),
    'quantities': list(quantities),
    **sizes,
    'learning_rate': run.learning_rates[0],
    'settings': {k: v for k, v in run.identity().items() if k not in UNUSED + VARIED},
    'device': environment.device(),
  }


def run_of(values: dict, layer: str, length: int) -> Run:
  """The run of a layer at a length, from what identifies a cell of times.

  It is the same for all repetitions, which so share their compiled programs; a repetition's seed
  goes to the parameters and the data alone.
  """
  return Run(
    layer=layer,
    task=f'text(length={length})',
    batch_size=values['tokens'] // length,
    steps=values['rounds'],
    learning_rates=(values['learning_rate'],),
    **values['settings'],
  )


def resolved(values: dict, layer: str, length: int) -> Experiment:
  """The same with its specs parsed."""
  return _resolved(run_of(values, layer, length))


def cell_of(study: str, values: dict, seed: int, label: str) -> Cell:
  """The cell of a repetition of what `asked` identifies."""
  budget = resolved(values, values['layers'][0], min(values['lengths'])).budget
  return Cell(study, values | {'seed': seed}, label, expected={'budget': budget})


def time_cell(timeout: float):
  """What measures a cell, for `grid.launch`."""
  return functools.partial(_measure, timeout)


def _measure(timeout: float, cell: Cell, report) -> Outcome:
  end, run = time.monotonic() + timeout, cell.run
  bench, calls = Bench(run), {}
  points = [
    Point(layer, length, quantity, bench.tokens(quantity))
    for length, layer, quantity in itertools.product(
      run['lengths'], run['layers'], run['quantities'])
  ]
  shortest = min(run['lengths'])
  points += [Point(layer, shortest, 'repeat', bench.tokens('train')) for layer in run['layers']]
  for i, point in enumerate(points):
    if time.monotonic() > end:
      break
    report(PREPARING * i / len(points), f'{point.quantity} {point.layer} at {point.length}')
    try:
      calls[i] = bench.prepare(point)
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
      if not point.excused(error):
        raise
  times = interleaved(
    calls,
    run['rounds'],
    timeout=end - time.monotonic(),
    excuse=lambda i, error: points[i].excused(error),
    progress=lambda part: report(PREPARING + (1 - PREPARING) * part, f'{part:.0%} of the rounds'),
  )
  for i, seconds in times.items():
    points[i].seconds, points[i].status = seconds, 'finished' if seconds else 'timeout'
  first = bench.experiments[run['layers'][0]]
  result = {
    'budget': first.budget,
    'layers': {layer: one.match for layer, one in bench.experiments.items()},
    'points': [dataclasses.asdict(point) for point in points],
  }
  if late := sum(point.status == 'timeout' for point in points):
    return Outcome(result, 'timeout', f'{late} of {len(points)} points have no times')
  return Outcome(result)


class Bench:
  """The calls of one repetition, with the parameters and the data that they share."""

  def __init__(self, values: dict):
    self.values = values
    self.experiments = {layer: self._experiment(layer) for layer in values['layers']}
    self.states = {  # no length changes them, so they are made at the shortest
      layer: _initialise(self._training(layer), values['seed'], values['learning_rate'])
      for layer in values['layers']
    }

  def tokens(self, quantity: str) -> int:
    """How many tokens a call reads or writes."""
    if quantity == 'generate':
      return self.values['sequences'] * self.values['generated']
    return self.values['tokens']

  def prepare(self, point: Point):
    """The call that is timed at a point; notes the point's bytes."""
    state, training = self.states[point.layer], self._training(point.layer, point.length)
    if point.quantity == 'generate':
      reached, token = self._read(point, training, state.parameters)
      point.bytes = memory.of_arrays(reached)
      return functools.partial(
        _generate, training.model, state.parameters, reached, token, self.values['generated']
      )
    quantity = 'train' if point.quantity == 'repeat' else point.quantity
    program = _compiled(training, quantity)
    if plan := memory.of_program(program):
      point.bytes = plan.temporary
    memory.require(plan)
    batch = _batch(training.task, 'train', self.values['seed'], training.recipe.batch_size)
    if quantity == 'train':
      return functools.partial(program, state, batch)
    return functools.partial(program, state.parameters, batch.source)

  def _experiment(self, layer: str, length: int | None = None) -> Experiment:
    return resolved(self.values, layer, length or min(self.values['lengths']))

  def _training(self, layer: str, length: int | None = None) -> Training:
    one = self._experiment(layer, length)
    return Training(self.experiments[layer].model, one.task, one.run)

  def _read(self, point: Point, training: Training, parameters):
    """A state that has read up to the point's position, and the token [B, 1] that follows."""
    model, match = training.model, self.experiments[point.layer].match
    text = _batch(training.task, 'test', self.values['seed'], self.values['sequences']).source
    capacity = point.length + self.values['generated']
    state = model.initial_state(self.values['sequences'], capacity, match['width'])
    for start in range(0, point.length, READ_AT_ONCE):
      state, token = _advance(model, parameters, state, text[:, start : start + READ_AT_ONCE])
    return state, token


_batch = jax.jit(
  lambda task, split, index, size: task.batch(split, index, size), static_argnums=(0, 1, 3)
)
_initialise = jax.jit(Training.initialise, static_argnums=0)


@functools.cache
def _compiled(training: Training, quantity: str):
  """A training step or a forward pass, for the training's own batches."""
  number = functools.partial(jax.ShapeDtypeStruct, ())
  state = jax.eval_shape(training.initialise, number(jnp.int32), number(jnp.float32))
  batch = jax.eval_shape(lambda: training.task.batch('train', 0, training.recipe.batch_size))
  if quantity == 'train':
    return jax.jit(training.train_step).lower(state, batch).compile()
  logits = jax.jit(lambda parameters, source: training.model.apply(parameters, source)[0])
  return logits.lower(state.parameters, batch.source).compile()


@functools.partial(jax.jit, static_argnums=0)
def _advance(model, parameters, state, tokens):
  """The state after tokens [B, T], and the likeliest next token [B, 1]."""
  logits, state = model.apply(parameters, tokens, state)
  return state, jnp.argmax(logits[:, -1:], -1).astype(tokens.dtype)


@functools.partial(jax.jit, static_argnums=(0, 4))
def _generate(model, parameters, state, token, count: int):
  """State and token after `count` tokens more, each read in its turn."""
  def step(carry, _):
    return _advance(model, parameters, *carry), None

  return jax.lax.scan(step, (state, token), length=count)[0]
