"""Norms of the gradient of the last output with respect to earlier inputs, by distance.

  norm(k) = ||d y_T / d x_{T - k}|| / sqrt(D)
  spectral norm(k) = largest singular value of d y_T / d x_{T - k}

Here x is the input of the first residual block [B, T, D], y is the output of the last block, and T
is the last token. The first norm is the Frobenius norm divided by sqrt(D), so that both norms of
the identity are 1. Each is a geometric mean over sequences. It is 0 if the gradient of one of the
sequences is exactly 0.

At initialisation there is no task. The inputs are unit Gaussian, and each seed draws parameters.
In training `gradient_norms_in_training` is called at every evaluation.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab.cells import spec
from experiments.lab.cells.cell import Cell, Outcome
from experiments.lab.cells.experiment import create_experiment
from experiments.lab.cells.models import batch_shapes, first_block_input
from experiments.lab.cells.run import Run
from experiments.lab.measure import jacobian
from experiments.lab.tasks.task import Task
from experiments.lab.training.step import Training
from transformer.layer import SequenceLayer
from transformer.model import DecoderOnly

SEQUENCES = 8  # over which a norm is averaged
START = 'initialisation'  # value of the field `at` in the record of an untrained model
MODEL_SETTINGS = ('layer', 'width', 'depth', 'feedforward', 'expansion', 'block', 'seeds')


def measured_distances(length: int) -> list[int]:
  """The distances 0, 2^i, 3 * 2^i and `length - 1` that are below `length`, in ascending order."""
  candidates = {factor << octave for factor in (1, 3) for octave in range(length.bit_length())}
  return sorted({0, length - 1} | {k for k in candidates if k < length})


def gradient_norms_by_distance(
  stack: SequenceLayer, parameters, x: jax.Array
) -> dict[str, jax.Array]:
  """Norms of the gradient of the last output with respect to the input at each distance.

  Args:
    stack: the residual blocks of a model.
    parameters: the parameters of the stack.
    x: the inputs of the first block, [B, T, D].

  Returns:
    The `norms` and the `spectral_norms`, each [N] for the N distances of `measured_distances(T)`.

  """
  def apply_stack(x):
    return stack.apply({'params': parameters}, x)[0]

  last = x.shape[1] - 1
  # Gradients are computed in float32, because lower training precisions round small values to 0.
  rows = jacobian.jacobian_at_output(apply_stack, x.astype(jnp.float32), last)
  rows = rows[:, last - np.array(measured_distances(last + 1))]
  by_sequence = {
    'norms': jacobian.frobenius_norm(rows) / x.shape[2] ** 0.5,
    'spectral_norms': jacobian.spectral_norm(rows),
  }
  return {name: jnp.exp(jnp.mean(jnp.log(value), 0)) for name, value in by_sequence.items()}


def measurement_settings(run: Run, length: int) -> dict:
  """The sequence length and the model settings that identify a gradient measurement in a record."""
  settings = {name: run.to_json_values()[name] for name in MODEL_SETTINGS}
  return {'at': START, 'length': length} | settings


def _run_from_measurement_settings(measurement: dict) -> Run:
  """Creates a Run with the model settings and the sequence length of a gradient measurement."""
  settings = {name: measurement[name] for name in MODEL_SETTINGS}
  settings['seeds'] = tuple(measurement['seeds'])
  return Run(task=f'adding(length={measurement["length"]})', match='none', **settings)


_parse_task = functools.cache(functools.partial(spec.parse_spec, kind='task'))


def initial_gradient_cell(
  study: str, measurement: dict, layer: SequenceLayer | None = None
) -> Cell:
  """The grid cell that measures gradient norms of a model at initialisation.

  Args:
    study: the name of the study.
    measurement: the settings of the measurement, from `measurement_settings`.
    layer: the layer that `measurement['layer']` describes, or None to parse that description.

  Returns:
    The grid cell.

  """
  label = f'{measurement["layer"]}, {measurement["block"]}, at {START}'
  run = _run_from_measurement_settings(measurement)
  return Cell(study, measurement, label, create_experiment(run, layer, _parse_task(run.task)))


def measure_gradient_norms_of_grid_cell(
  cell: Cell, report: Callable[[float, str], None]
) -> Outcome:
  """Measures the gradient norms of a model at initialisation, for every seed and distance."""
  del report
  run, stack = cell.experiment.run, cell.experiment.model_at_width().stack
  shape = SEQUENCES, cell.run['length'], run.width
  norms = _gradient_norms_at_initialisation(stack, shape, np.array(run.seeds, np.int32))
  field = {'receptive_field': stack.receptive_field}
  return Outcome(field | _gradient_norms_as_lists(cell.run['length'], norms))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradient_norms_at_initialisation(stack: SequenceLayer, shape: tuple[int, int, int], seeds):
  """Norms [seeds, N] of the gradient of an untrained stack's last output, at N input distances.

  The inputs are Gaussian and have the shape [B, T, D].
  """
  def gradient_norms_of_seed(seed):
    keys = jax.random.split(jax.random.key(seed))
    x = jax.random.normal(keys[0], shape)
    return gradient_norms_by_distance(stack, stack.init(keys[1], x)['params'], x)

  return jax.lax.map(gradient_norms_of_seed, seeds)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradient_norms_of_ensemble_members(model: DecoderOnly, task: Task, parameters):
  """Norms [members, N] of the last output's gradient in ensemble members, at N input distances.

  The inputs are embedded sequences of the test split.
  """
  source = task.batch('test', 0, SEQUENCES).source

  def gradient_norms_of_ensemble_member(parameters):
    x = first_block_input(model, parameters, source)
    return gradient_norms_by_distance(model.stack, parameters['stack'], x)

  return jax.lax.map(gradient_norms_of_ensemble_member, parameters)


def gradient_norms_in_training(training: Training, states) -> dict:
  """Measures the gradient norms of every ensemble member at one evaluation during training."""
  norms = _gradient_norms_of_ensemble_members(
    training.model, training.task, states.parameters['params'])
  return _gradient_norms_as_lists(batch_shapes(training.task).source.shape[1], norms)


def _gradient_norms_as_lists(length: int, norms) -> dict:
  """Distances, gradient norms and spectral norms as lists of numbers for a record."""
  lists = {name: np.asarray(values).tolist() for name, values in norms.items()}
  return {'distances': measured_distances(length), **lists}
