"""Receptive fields: of stacks as they are initialised, in cells, and of models while they train.

A cell is a stack of some depth, in the shell of a run, with several seeds in one program. It reads
Gaussian sequences longer than the field that it declares, so that one that reaches beyond it is
found out. A stack that declares no bound reads sequences of a given length, and has to see all.
"""

import functools

import jax
import jax.numpy as jnp

from experiments.lab.cells.cell import Cell, Outcome
from experiments.lab.cells.experiment import Experiment
from experiments.lab.cells.models import entering
from experiments.lab.measure.jacobian import at_output
from experiments.lab.training.step import Training
from experiments.receptive_field import field
from transformer.layer import SequenceLayer

SETTINGS = ('layer', 'width', 'depth', 'feedforward', 'expansion', 'block', 'seeds')
BEYOND = 3  # tokens before those that are declared to be seen
WATCHED = 8  # sequences of the test split that a model in training reads


def cell_of(study: str, experiment: Experiment, length: int, sequences: int) -> Cell:
  """The cell of a run's stack; `length` is that of the sequences where it declares no bound."""
  run = experiment.run
  settings = {name: value for name, value in run.identity().items() if name in SETTINGS}
  sizes = {'length': length, 'sequences': sequences}
  return Cell(study, settings | sizes, f'{run.depth} x {run.layer}', experiment)


def measure_cell(cell: Cell, report) -> Outcome:
  """What measures a cell, for `grid.launch`."""
  stack = stack_of(cell.experiment)
  declared = stack.receptive_field
  length = cell.run['length'] if declared is None else declared + BEYOND
  shape = cell.run['sequences'], length, cell.run['width']
  seen = _at_start(stack, shape, jnp.array(cell.run['seeds']))
  return Outcome({'declared': declared, 'length': length, **listed(seen)})


def stack_of(experiment: Experiment) -> SequenceLayer:
  """The blocks of a run's model, without what stands below and above them."""
  return experiment.unmatched().stack


@functools.partial(jax.jit, static_argnums=(0, 1))
def _at_start(stack: SequenceLayer, shape: tuple[int, int, int], seeds):
  def one(seed):
    for_x, for_parameters = jax.random.split(jax.random.key(seed))
    x = jax.random.normal(for_x, shape)
    parameters = stack.init(for_parameters, x)
    return look(lambda x: stack.apply(parameters, x)[0], x)

  return jax.lax.map(one, seeds)


def look(read, x: jax.Array) -> dict[str, jax.Array]:
  """What the last output of read(x [B, T, D]) says of its field; the energy [T] sums to 1."""
  jacobian = at_output(read, x, x.shape[1] - 1)
  energy = field.energy(jacobian)
  return {
    'shown': field.shown(jacobian),
    'effective': field.effective(energy),
    'spread': field.spread(energy),
    'energy': energy / jnp.sum(energy),
  }


def watch(training: Training, states) -> dict[str, list]:
  """The fields of all members [members, ...], on the embedded tokens of the test split."""
  return listed(_of_members(training, states))


@functools.partial(jax.jit, static_argnums=0)
def _of_members(training: Training, states):
  model, source = training.model, filled(training)

  def one(state):
    own = training.tested(state)['params']
    read = lambda x: model.stack.apply({'params': own['stack']}, x)[0]  # noqa: E731
    return look(read, entering(model, own, source))

  return jax.lax.map(one, states)


def filled(training: Training) -> jax.Array:
  """Sources of the test split, as many of others before them as fill the last output's field."""
  task, size = training.task, min(WATCHED, training.recipe.batch_size)
  own = task.batch('test', 0, size).source
  others = (training.model.receptive_field or 0) // own.shape[1]
  before = [task.batch('test', 1 + index, size).source for index in range(others)]
  return jnp.concatenate([*before, own], 1)


def listed(seen: dict[str, jax.Array]) -> dict[str, list]:
  """Arrays as lists for a record; of the energies, which are many, three digits."""
  found = {name: value.tolist() for name, value in jax.device_get(seen).items()}
  energy = [[float(f'{part:.3g}') for part in one] for one in found['energy']]
  return found | {'energy': energy}
