"""Benchmarks of training steps of a small language model on the same text, in several libraries.

A step computes the loss, its gradient, and an AdamW update. All implementations start from the same
parameters and train on the same batches. Their losses and parameters are compared after a few
steps.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.lab.cells.experiment import create_experiment
from experiments.lab.cells.run import Run
from experiments.lab.measure import memory
from experiments.lab.tasks.task import Batch
from experiments.lab.tasks.text import Text
from experiments.lab.training.ensemble import AXIS, compile_over_devices
from experiments.lab.training.step import Training, TrainState
from experiments.speed.benchmark import OURS, Benchmark, Implementation
from experiments.speed.pytorch.training import prepare_eager_training
from transformer.layer import SequenceLayer

LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.1
VERIFICATION_STEPS = 3  # training steps before results are compared, if a single step is timed
IGNORED_TARGET = -100  # PyTorch's default for targets that do not count towards the loss


class TrainingProblem(NamedTuple):
  """Initial parameters and training batches that all implementations of a model share."""

  training: Training
  start: TrainState
  batches: list[Batch]  # one per timed step

  @property
  def parameters(self) -> dict:
    """Initial parameters in this repository's layout."""
    return self.start.parameters['params']

  @property
  def embedding_shape(self) -> tuple[int, int]:
    """The number of token ids V and the width D."""
    return self.parameters['embedding']['embedding'].shape

  @property
  def timed_batches(self) -> list[tuple[jax.Array, jax.Array]]:
    """Source and target token ids [B, T] per timed step, with target -100 for ignored tokens."""
    return [
      (batch.source, jnp.where(batch.weight > 0, batch.target, IGNORED_TARGET))
      for batch in self.batches
    ]

  @property
  def verification_batches(self) -> list[tuple[jax.Array, jax.Array]]:
    """Batches for the training steps whose results are compared between implementations.

    If only one batch is timed, these steps repeat that batch.
    """
    copies = 1 if len(self.batches) > 1 else VERIFICATION_STEPS
    return self.timed_batches * copies


def create_training_problem(
  layer: SequenceLayer, seed: int, sizes: Mapping[str, int], **settings: Any
) -> TrainingProblem:
  """Creates a language model with its initial parameters and its batches of text.

  Args:
    layer: Layer of the model's blocks.
    seed: Seed of the parameters and of the batches.
    sizes: Sizes `batch`, `length`, `width`, `depth` and `steps` of the model and of its training.
    **settings: Further settings of the run, such as the kind of residual block.

  Returns:
    The training problem.

  """
  batch_size, steps = sizes['batch'], sizes['steps']
  task = Text(sizes['length'])
  # The layer and the task are passed as objects, so that the modules that define them are imported
  # here. A record contains hashes of the source files of imported modules only.
  run = Run(
    width=sizes['width'], depth=sizes['depth'], match='none', dropout=0.0, dtype='float32',
    optimizer='adamw', label_smoothing=0.0, batch_size=batch_size, steps=steps, validations=1,
    schedule='constant', warmup=0.0, clip=0.0, weight_decay=WEIGHT_DECAY,
    learning_rates=(LEARNING_RATE,), **settings)
  training = Training(create_experiment(run, layer, task).model, task, run)
  draw_batch = jax.jit(functools.partial(task.batch, 'train', batch_size=batch_size))
  return TrainingProblem(
    training, jax.jit(training.initialise)(seed, LEARNING_RATE),
    [draw_batch(seed * steps + step) for step in range(steps)])


def make_training_benchmark(
  problem: TrainingProblem, alternative_implementations: Mapping[str, Callable],
  matmul_flops: float,
) -> Benchmark:
  """Defines a benchmark of training steps.

  A single step receives a prepared batch, while this repository's loop of several steps generates
  its batches.

  Args:
    problem: Model, initial parameters and batches.
    alternative_implementations: Functions by name that prepare other implementations of the
      training of a problem.
    matmul_flops: Operations of the matrix products of one forward pass of the model.

  Returns:
    The benchmark.

  """
  candidates = {OURS: compile_our_training} | alternative_implementations
  return Benchmark(
    {name: functools.partial(prepare, problem) for name, prepare in candidates.items()},
    {'steps': 3 * matmul_flops * len(problem.batches)})


def compile_our_training(problem: TrainingProblem) -> Implementation:
  """Compiles this repository's training step or loop with the batch sharded over devices."""
  count = math.gcd(problem.training.recipe.batch_size, jax.device_count())
  devices = jax.devices()[:count]
  training = problem.training.with_batches_divided_over_devices(count, AXIS)
  start = jax.tree.map(lambda x: jnp.broadcast_to(x, (count, *x.shape)), problem.start)
  steps = len(problem.batches)

  def train_for_all_steps(state):
    state, losses = training.train_for_steps(state, jnp.zeros(()), steps)
    return state, losses / steps

  if steps > 1:
    compiled = compile_over_devices(devices, 'jit', train_for_all_steps)
    batch_arguments, repeats = (), 1
  else:
    compiled = compile_over_devices(devices, 'jit', training.train_step)
    (batch,) = problem.batches
    shards = jax.tree.map(lambda x: x.reshape(count, -1, *x.shape[1:]), batch)
    batch_arguments, repeats = (shards,), VERIFICATION_STEPS
  start, *batch_arguments = jax.device_put(
    (start, *batch_arguments), leading_axis_sharding(devices))
  program = compiled.lower(start, *batch_arguments).compile()

  def our_training_results():
    state, losses = start, []
    for _ in range(repeats):
      state, loss = program(state, *batch_arguments)
      losses.append(loss[0])
    return training_results(losses, jax.tree.map(lambda x: x[0], state.parameters['params']))

  call = functools.partial(program, start, *batch_arguments)
  return Implementation({'steps': call}, our_training_results, memory.program_memory(program))


def leading_axis_sharding(devices) -> NamedSharding:
  """Returns the sharding that splits the first axis of an array over devices."""
  return NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS))


def training_results(losses, parameters) -> dict:
  """Returns a dict of the mean training loss and the trained parameters."""
  return {'loss': jnp.mean(jnp.stack(losses)), 'parameters': parameters}


def prepare_torch_training(
  build_model: Callable[..., Any], convert_parameters: Callable[[dict], dict],
  problem: TrainingProblem,
) -> Implementation:
  """Prepares a Python loop that trains a PyTorch model in eager mode on all batches.

  Args:
    build_model: Builds the model from the number of token ids V, the width D and the depth.
    convert_parameters: Converts this repository's parameters into the weights of the model.
    problem: Initial parameters and batches.

  Returns:
    The implementation, whose results are in this repository's layout.

  """
  start, back = jax.vjp(jax.jit(convert_parameters), problem.parameters)
  depth = problem.training.recipe.depth
  implementation = prepare_eager_training(
    functools.partial(build_model, *problem.embedding_shape, depth), start,
    problem.timed_batches, problem.verification_batches, LEARNING_RATE, WEIGHT_DECAY)

  def torch_training_results():
    losses, weights = implementation.results()
    return training_results(losses, *jax.jit(back)(weights))

  return implementation._replace(results=torch_training_results)
