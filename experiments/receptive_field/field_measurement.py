"""Measurement of receptive fields of layer stacks, before and during training.

At initialisation the model is a stack of residual blocks, with several seeds in one program. Its
inputs are Gaussian sequences longer than the theoretical receptive field, which the stack declares,
so that a measured field beyond the theoretical one is detected. A stack with an unbounded field has
inputs of a given length, and its last output has to depend on all of them.
"""

import functools

import jax
import jax.numpy as jnp

from experiments.lab.cells.cell import Cell, Outcome
from experiments.lab.cells.experiment import Experiment
from experiments.lab.cells.models import first_block_input
from experiments.lab.measure.jacobian import jacobian_of_output_at_position
from experiments.lab.training.step import Training
from experiments.receptive_field import jacobian_statistics
from transformer.layer import SequenceLayer

SETTINGS = ('layer', 'width', 'depth', 'feedforward', 'expansion', 'block', 'seeds')
EXTRA_TOKENS = 3  # before the theoretical receptive field
TEST_SEQUENCES = 8  # over which squared gradient norms of a trained model are averaged


def create_experiment_grid_cell_for_untrained_model(
  study: str, experiment: Experiment, length: int, sequences: int
) -> Cell:
  """Creates the grid cell that measures the receptive field of untrained layers.

  Args:
    study: the name of the study.
    experiment: the experiment whose model contains the stack.
    length: the length of the input sequences, used if the receptive field is unbounded.
    sequences: the number of input sequences.

  Returns:
    The grid cell.

  """
  run = experiment.run
  settings = {name: value for name, value in run.to_json_values().items() if name in SETTINGS}
  sizes = {'length': length, 'sequences': sequences}
  return Cell(study, settings | sizes, f'{run.depth} x {run.layer}', experiment)


def measure_receptive_field_at_initialisation(grid_cell: Cell, report_progress) -> Outcome:
  """Measures the receptive field of a stack at initialisation, for every seed."""
  stack = residual_stack_of_model(grid_cell.experiment)
  theoretical = stack.receptive_field
  length = grid_cell.run['length'] if theoretical is None else theoretical + EXTRA_TOKENS
  input_shape = grid_cell.run['sequences'], length, grid_cell.run['width']
  statistics = _receptive_fields_at_initialisation(
    stack, input_shape, jnp.array(grid_cell.run['seeds']))
  return Outcome({'theoretical': theoretical, 'length': length, **_statistics_as_lists(statistics)})


def residual_stack_of_model(experiment: Experiment) -> SequenceLayer:
  """The residual blocks of an experiment's model, without the embedding and the output head."""
  return experiment.model_at_width().stack


@functools.partial(jax.jit, static_argnums=(0, 1))
def _receptive_fields_at_initialisation(
  layer_stack: SequenceLayer, input_shape: tuple[int, int, int], seeds
):
  """Receptive-field statistics of untrained layers for each seed, on Gaussian inputs [B, T, D]."""
  def receptive_field_statistics_for_seed(seed):
    input_key, parameter_key = jax.random.split(jax.random.key(seed))
    x = jax.random.normal(input_key, input_shape)
    parameters = layer_stack.init(parameter_key, x)
    return _receptive_field_statistics(lambda x: layer_stack.apply(parameters, x)[0], x)

  return jax.lax.map(receptive_field_statistics_for_seed, seeds)


def _receptive_field_statistics(function, x: jax.Array) -> dict[str, jax.Array]:
  """Receptive-field statistics of the last output of `function(x)`, with inputs x [B, T, D].

  The measured and the effective field and the spread are scalars. The squared gradient norms [T],
  stored as `energy`, are normalised to a sum of 1.
  """
  jacobian = jacobian_of_output_at_position(function, x, x.shape[1] - 1)
  squared_norms = jacobian_statistics.squared_gradient_norm_by_distance(jacobian)
  return {
    'measured': jacobian_statistics.measured_receptive_field(jacobian),
    'effective': jacobian_statistics.effective_receptive_field(squared_norms),
    'spread': jacobian_statistics.receptive_field_spread(squared_norms),
    'energy': squared_norms / jnp.sum(squared_norms),
  }


def receptive_fields_in_training(trainer: Training, states) -> dict[str, list]:
  """Receptive-field statistics of each ensemble member during training, on embedded test data."""
  return _statistics_as_lists(_receptive_fields_of_ensemble_members(trainer, states))


@functools.partial(jax.jit, static_argnums=0)
def _receptive_fields_of_ensemble_members(trainer: Training, states):
  model, source = trainer.model, sequences_longer_than_receptive_field(trainer)

  def receptive_field_statistics_of_ensemble_member(state):
    parameters = trainer.parameters_for_test(state)['params']
    apply_stack = lambda x: model.stack.apply({'params': parameters['stack']}, x)[0]  # noqa: E731
    return _receptive_field_statistics(apply_stack, first_block_input(model, parameters, source))

  return jax.lax.map(receptive_field_statistics_of_ensemble_member, states)


def sequences_longer_than_receptive_field(trainer: Training) -> jax.Array:
  """Test sequences [B, T], joined where necessary so that T exceeds the receptive field."""
  task, size = trainer.task, min(TEST_SEQUENCES, trainer.recipe.batch_size)
  sources = task.batch('test', 0, size).source
  count = (trainer.model.receptive_field or 0) // sources.shape[1]
  preceding = [task.batch('test', 1 + index, size).source for index in range(count)]
  return jnp.concatenate([*preceding, sources], 1)


def _statistics_as_lists(statistics: dict[str, jax.Array]) -> dict[str, list]:
  """Converts statistics to lists, and rounds squared gradient norms to three significant digits."""
  lists = {name: value.tolist() for name, value in jax.device_get(statistics).items()}
  rounded = [[float(f'{value:.3g}') for value in by_distance] for by_distance in lists['energy']]
  return lists | {'energy': rounded}
