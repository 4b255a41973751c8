"""How far gradients flow: the Jacobian of a run's blocks by distance, at the start and in training.

  norm(k) = ||d y_T / d x_{T - k}|| / sqrt(D),    stretch(k) = its largest singular value

for the map from what enters the first block to what leaves the last, at the last token T. The norm
is Frobenius', so that both are 1 for the identity. Each is a geometric mean over sequences, and 0
where one of them has no gradient at all.

A cell at initialisation has no task and no training: unit Gaussian inputs, and a seed's own
parameters. A cell that trains is shown to `watch` at every look.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.cells import spec
from experiments.lab.cells.cell import Cell, Outcome
from experiments.lab.cells.experiment import resolve
from experiments.lab.cells.models import entering, shapes_of
from experiments.lab.cells.run import Run
from experiments.lab.measure import jacobian
from experiments.lab.tasks.task import Task
from experiments.lab.training.step import Training
from transformer.layer import SequenceLayer
from transformer.model import DecoderOnly

SEQUENCES = 8  # that a norm is a mean over
START = 'initialisation'  # what such a cell's run is `at`
BUILT = ('layer', 'width', 'depth', 'feedforward', 'expansion', 'block', 'seeds')


def distances(length: int) -> list[int]:
  """0, 1, 2, 3, 4, 6, 8, 12, 16, ... below a length, and the greatest, length - 1."""
  found = {factor << octave for factor in (1, 3) for octave in range(length.bit_length())}
  return sorted({0, length - 1} | {k for k in found if k < length})


def norms(stack: SequenceLayer, parameters, x: jax.Array) -> dict[str, jax.Array]:
  """The norm and the stretch of a stack's blocks at each distance [N], for inputs [B, T, D]."""
  def function(x):
    return stack.apply({'params': parameters}, x)[0]

  last = x.shape[1] - 1
  # Rows are taken in float32, whatever the run computes in: small norms are what it is about.
  rows = jacobian.at_output(function, x.astype(jnp.float32), last)
  rows = rows[:, last - np.array(distances(last + 1))]
  found = {
    'norms': jacobian.frobenius(rows) / x.shape[2] ** 0.5,
    'stretches': jacobian.spectral(rows),
  }
  return {name: jnp.exp(jnp.mean(jnp.log(value), 0)) for name, value in found.items()}


def asked(run: Run, length: int) -> dict:
  """What identifies the cell of a run's blocks at initialisation, on sequences of a length."""
  return {'at': START, 'length': length} | {name: run.identity()[name] for name in BUILT}


def run_of(values: dict) -> Run:
  """The run whose blocks a cell is about; its task is of their length, and plays no part."""
  built = {name: values[name] for name in BUILT} | {'seeds': tuple(values['seeds'])}
  return Run(task=f'adding(length={values["length"]})', match='none', **built)


_task = functools.cache(functools.partial(spec.parse, kind='task'))


def cell_of(study: str, values: dict, layer: SequenceLayer | None = None) -> Cell:
  """The cell that `measure_cell` measures; its layer is parsed unless it is known."""
  label = f'{values["layer"]}, {values["block"]}, at {START}'
  run = run_of(values)
  return Cell(study, values, label, resolve(run, layer, _task(run.task)))


def measure_cell(cell: Cell, report: Callable[[float, str], None]) -> Outcome:
  """The norms of every seed, [seeds][N]."""
  del report
  run, stack = cell.experiment.run, cell.experiment.unmatched().stack
  shape = SEQUENCES, cell.run['length'], run.width
  found = at_start(stack, shape, np.array(run.seeds, np.int32))
  field = {'receptive_field': stack.receptive_field}
  return Outcome(field | kept(cell.run['length'], found))


@functools.partial(jax.jit, static_argnums=(0, 1))
def at_start(stack: SequenceLayer, shape: tuple[int, int, int], seeds):
  """Norms [seeds, N] with parameters as they are drawn and Gaussian inputs of a shape [B, T, D]."""
  def one(seed):
    keys = jax.random.split(jax.random.key(seed))
    x = jax.random.normal(keys[0], shape)
    return norms(stack, stack.init(keys[1], x)['params'], x)

  return jax.lax.map(one, seeds)


@functools.partial(jax.jit, static_argnums=(0, 1))
def in_training(model: DecoderOnly, task: Task, parameters):
  """Norms [members, N] with the members' parameters, on sequences of the test split."""
  source = task.batch('test', 0, SEQUENCES).source
  return jax.lax.map(lambda own: norms(model.stack, own['stack'], entering(model, own, source)),
                     parameters)


def watch(training: Training, states) -> dict:
  """What a record keeps of the members' states; see `train_cell`."""
  found = in_training(training.model, training.task, states.parameters['params'])
  return kept(shapes_of(training.task).source.shape[1], found)


def kept(length: int, found) -> dict:
  """Norms as a record has them: the distances [N], the norms and the stretches [..., N]."""
  return {
    'distances': distances(length), **{name: np.asarray(x).tolist() for name, x in found.items()}
  }
