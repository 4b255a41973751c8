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


def distances_to_measure(sequence_length: int) -> list[int]:
  """Returns the distances 0, T - 1, and all numbers 2^i and 3 * 2^i below the sequence length T.

  The distances are in tokens and in ascending order. The exponents i are integers of at least 0.
  """
  octaves = range(sequence_length.bit_length())
  candidates = {factor << octave for factor in (1, 3) for octave in octaves}
  return sorted({0, sequence_length - 1} | {k for k in candidates if k < sequence_length})


def gradient_norms_by_distance(
  layer_stack: SequenceLayer, parameters, x: jax.Array
) -> dict[str, jax.Array]:
  """Norms of the gradient of the last output with respect to the input at each distance.

  Args:
    layer_stack: the residual blocks of a model.
    parameters: the parameters of these blocks.
    x: the inputs of the first block, [B, T, D].

  Returns:
    The `norms` and the `spectral_norms`, each [N] for the N distances of `distances_to_measure(T)`.

  """
  def apply_stack(x):
    return layer_stack.apply({'params': parameters}, x)[0]

  last = x.shape[1] - 1
  # Gradients are computed in float32, because lower training precisions round small values to 0.
  rows = jacobian.jacobian_of_output_at_position(apply_stack, x.astype(jnp.float32), last)
  rows = rows[:, last - np.array(distances_to_measure(last + 1))]
  by_sequence = {
    'norms': jacobian.frobenius_norm(rows) / x.shape[2] ** 0.5,
    'spectral_norms': jacobian.spectral_norm(rows),
  }
  return {name: jnp.exp(jnp.mean(jnp.log(value), 0)) for name, value in by_sequence.items()}


def measurement_settings(run: Run, length: int) -> dict:
  """The sequence length and the model settings that identify a gradient measurement in a record."""
  settings = {name: run.to_json_values()[name] for name in MODEL_SETTINGS}
  return {'at': START, 'length': length} | settings


def _create_run_configuration(measurement: dict) -> Run:
  """Creates the Run with the model settings and the sequence length of a gradient measurement."""
  settings = {name: measurement[name] for name in MODEL_SETTINGS}
  settings['seeds'] = tuple(measurement['seeds'])
  return Run(task=f'adding(length={measurement["length"]})', match='none', **settings)


_parse_task = functools.cache(functools.partial(spec.parse_spec, component_kind='task'))


def create_experiment_grid_cell_for_untrained_model(
  study: str, measurement: dict, layer: SequenceLayer | None = None
) -> Cell:
  """Creates the grid cell that measures gradient norms of an untrained model.

  Args:
    study: the name of the study.
    measurement: the settings of the measurement, from `measurement_settings`.
    layer: the layer that `measurement['layer']` describes, or None to parse that description.

  Returns:
    The grid cell.

  """
  label = f'{measurement["layer"]}, {measurement["block"]}, at {START}'
  run = _create_run_configuration(measurement)
  return Cell(study, measurement, label, create_experiment(run, layer, _parse_task(run.task)))


def measure_gradient_norms_at_initialisation(
  grid_cell: Cell, report_progress: Callable[[float, str], None]
) -> Outcome:
  """Measures gradient norms of a model at initialisation for each seed and input-output distance.

  The distance is the number of tokens between the input and the last output.
  """
  del report_progress
  run, stack = grid_cell.experiment.run, grid_cell.experiment.model_at_width().stack
  shape = SEQUENCES, grid_cell.run['length'], run.width
  norms = _gradient_norms_at_initialisation(stack, shape, np.array(run.seeds, np.int32))
  field = {'receptive_field': stack.receptive_field}
  return Outcome(field | _gradient_norms_as_lists(grid_cell.run['length'], norms))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradient_norms_at_initialisation(
  layer_stack: SequenceLayer, input_shape: tuple[int, int, int], seeds
):
  """Norms [seeds, N] of the gradient of the last output with respect to inputs at N distances.

  The stack is untrained. The inputs are Gaussian and have the shape [B, T, D].
  """
  def gradient_norms_of_seed(seed):
    keys = jax.random.split(jax.random.key(seed))
    x = jax.random.normal(keys[0], input_shape)
    return gradient_norms_by_distance(layer_stack, layer_stack.init(keys[1], x)['params'], x)

  return jax.lax.map(gradient_norms_of_seed, seeds)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradient_norms_of_ensemble_members(model: DecoderOnly, task: Task, parameters):
  """Norms [members, N] of the gradient of the last output with respect to inputs at N distances.

  There is a row for each ensemble member. The inputs are embedded sequences of the test split.
  """
  source = task.batch('test', 0, SEQUENCES).source

  def gradient_norms_of_ensemble_member(parameters):
    x = first_block_input(model, parameters, source)
    return gradient_norms_by_distance(model.stack, parameters['stack'], x)

  return jax.lax.map(gradient_norms_of_ensemble_member, parameters)


def gradient_norms_in_training(trainer: Training, states) -> dict:
  """Measures the gradient norms of every ensemble member at one evaluation during training."""
  norms = _gradient_norms_of_ensemble_members(
    trainer.model, trainer.task, states.parameters['params'])
  return _gradient_norms_as_lists(batch_shapes(trainer.task).source.shape[1], norms)


def _gradient_norms_as_lists(length: int, norms) -> dict:
  """Returns distances between input and output, and gradient norms at each distance, as lists.

  The norms of the gradient are its scaled Frobenius norm and its spectral norm.
  """
  lists = {name: np.asarray(values).tolist() for name, values in norms.items()}
  return {'distances': distances_to_measure(length), **lists}
