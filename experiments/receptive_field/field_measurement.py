"""Measurement of receptive fields of stacks at initialisation and of models during training.

At initialisation the model is a stack of residual blocks, with several seeds in one program. Its
inputs are Gaussian sequences longer than the receptive field that the stack declares, so that a
measured field beyond the declared one is detected. A stack with an unbounded field has inputs of a
given length, and its last output has to depend on all of them.
"""

import functools

import jax
import jax.numpy as jnp

from experiments.lab.cells.cell import Cell, Outcome
from experiments.lab.cells.experiment import Experiment
from experiments.lab.cells.models import first_block_input
from experiments.lab.measure.jacobian import jacobian_at_output
from experiments.lab.training.step import Training
from experiments.receptive_field import jacobian_statistics
from transformer.layer import SequenceLayer

SETTINGS = ('layer', 'width', 'depth', 'feedforward', 'expansion', 'block', 'seeds')
EXTRA_TOKENS = 3  # before the declared receptive field
TEST_SEQUENCES = 8  # over which the gradient energy of a model in training is averaged


def untrained_stack_cell(study: str, experiment: Experiment, length: int, sequences: int) -> Cell:
  """The grid cell that measures the receptive field of an untrained stack of layers.

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


def measure_receptive_field_of_grid_cell(cell: Cell, report) -> Outcome:
  """Measures the receptive field of a stack at initialisation, for every seed."""
  stack = residual_stack_of_model(cell.experiment)
  declared = stack.receptive_field
  length = cell.run['length'] if declared is None else declared + EXTRA_TOKENS
  shape = cell.run['sequences'], length, cell.run['width']
  statistics = _statistics_at_initialisation(stack, shape, jnp.array(cell.run['seeds']))
  return Outcome({'declared': declared, 'length': length, **_statistics_for_record(statistics)})


def residual_stack_of_model(experiment: Experiment) -> SequenceLayer:
  """The residual blocks of an experiment's model, without the embedding and the output head."""
  return experiment.model_at_width().stack


@functools.partial(jax.jit, static_argnums=(0, 1))
def _statistics_at_initialisation(stack: SequenceLayer, shape: tuple[int, int, int], seeds):
  """Receptive-field statistics of an untrained stack by seed, for Gaussian inputs [B, T, D]."""
  def statistics_of_seed(seed):
    input_key, parameter_key = jax.random.split(jax.random.key(seed))
    x = jax.random.normal(input_key, shape)
    parameters = stack.init(parameter_key, x)
    return _receptive_field_statistics(lambda x: stack.apply(parameters, x)[0], x)

  return jax.lax.map(statistics_of_seed, seeds)


def _receptive_field_statistics(function, x: jax.Array) -> dict[str, jax.Array]:
  """Receptive-field statistics of the last output of `function(x)`, with inputs x [B, T, D].

  The measured and the effective field and the spread are scalars. The energy [T] is normalised to
  a sum of 1.
  """
  jacobian = jacobian_at_output(function, x, x.shape[1] - 1)
  energy = jacobian_statistics.gradient_energy_by_lag(jacobian)
  return {
    'measured': jacobian_statistics.measured_receptive_field(jacobian),
    'effective': jacobian_statistics.effective_receptive_field(energy),
    'spread': jacobian_statistics.lag_standard_deviation(energy),
    'energy': energy / jnp.sum(energy),
  }


def receptive_fields_in_training(training: Training, states) -> dict[str, list]:
  """Receptive-field statistics of each ensemble member on embedded sequences of the test split."""
  return _statistics_for_record(_statistics_of_ensemble_members(training, states))


@functools.partial(jax.jit, static_argnums=0)
def _statistics_of_ensemble_members(training: Training, states):
  model, source = training.model, lengthened_test_sequences(training)

  def statistics_of_ensemble_member(state):
    parameters = training.parameters_for_test(state)['params']
    apply_stack = lambda x: model.stack.apply({'params': parameters['stack']}, x)[0]  # noqa: E731
    return _receptive_field_statistics(apply_stack, first_block_input(model, parameters, source))

  return jax.lax.map(statistics_of_ensemble_member, states)


def lengthened_test_sequences(training: Training) -> jax.Array:
  """Test sequences [B, T], concatenated until T is larger than the receptive field."""
  task, size = training.task, min(TEST_SEQUENCES, training.recipe.batch_size)
  sources = task.batch('test', 0, size).source
  count = (training.model.receptive_field or 0) // sources.shape[1]
  preceding = [task.batch('test', 1 + index, size).source for index in range(count)]
  return jnp.concatenate([*preceding, sources], 1)


def _statistics_for_record(statistics: dict[str, jax.Array]) -> dict[str, list]:
  """Receptive-field statistics as lists for a record, with energies rounded to three digits."""
  lists = {name: value.tolist() for name, value in jax.device_get(statistics).items()}
  energy = [[float(f'{value:.3g}') for value in by_lag] for by_lag in lists['energy']]
  return lists | {'energy': energy}
