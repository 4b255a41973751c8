"""Lower bounds on the memory of a run, computed from shapes before any array is allocated.

  parameters    those of every layer, the embeddings and the head
  training      each parameter of each member and its two Adam moments, and one gradient
  activations   tensors of one batch kept for the backward pass (inputs of the blocks, logits)
  states        the state of each layer for each sequence of a batch, such as a convolution's window

A run that needs more memory than any machine has is a mistake of the user, and one line reports it.
A run that needs more memory than this machine has is a result with the status 'out of memory'.
"""

import collections
import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.lab.cells.limits import (
  FLOAT_BYTES,
  MAX_AXIS,
  describe_float32_vector_memory,
  format_bytes,
)
from experiments.lab.cells.run import Run
from experiments.lab.errors import BadInput
from experiments.lab.measure import memory
from experiments.lab.tasks.task import Batch, Task
from transformer.layer import SequenceLayer

MAX_RUN_BYTES = 2**44


class Sizes(NamedTuple):
  """The number of parameters and the number of state values of a layer or a model."""

  parameters: int
  state: int  # values in the state for one sequence


@functools.cache
def _layer_sizes(layer: SequenceLayer, width: int) -> Sizes:
  """Counts the parameters and the state values of a layer.

  Raises BadInput if the receptive field exceeds MAX_AXIS, the largest length of an array axis.
  """
  field = layer.receptive_field or 0
  if field > MAX_AXIS:
    raise BadInput(
      f'{type(layer).__name__} has a receptive field of {field} tokens, '
      f'but the limit is {MAX_AXIS}: {describe_float32_vector_memory(field)}')
  trees = (
    jax.eval_shape(lambda: layer.init(jax.random.key(0), jnp.zeros((1, 1, width)))),
    jax.eval_shape(lambda: layer.initial_state(1, 1, width)),
  )
  return Sizes(*(sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in trees))


def model_sizes(run: Run, layer: SequenceLayer, task: Task, width: int) -> Sizes:
  """Counts the parameters and state values of a run's model, excluding any encoder.

  Args:
    run: the settings, of which depth and feed-forward network are used.
    layer: the sequence layer in the model's blocks.
    task: the task, which determines the sizes of embedding and head.
    width: model width D.

  Returns:
    The number of parameters, and the number of values in the state for one sequence.

  """
  counts = collections.Counter(itertools.islice(itertools.cycle(layer.layer_pattern), run.depth))
  if layer.input_layer is not None:
    counts[layer.input_layer] += 1
  parts = [(_layer_sizes(part, width), count) for part, count in counts.items()]
  head = task.output_space.size if task.model_kind == 'layer' else 0
  embedding_and_head = width * (task.input_space.size + head)
  hidden = 0 if run.feedforward == 'none' else round(run.expansion * width)
  feedforward = 2 * run.depth * width * hidden
  return Sizes(
    sum(count * size.parameters for size, count in parts) + embedding_and_head + feedforward,
    sum(count * size.state for size, count in parts),
  )


def training_memory_bytes(run: Run, task: Task, batch: Batch, parameters: int, width: int) -> int:
  """Computes a lower bound on the memory for training the ensemble members sequentially.

  Args:
    run: the settings.
    task: the task of the run.
    batch: shapes of a batch of one sequence.
    parameters: number of parameters of a member.
    width: model width D.

  Returns:
    The number of bytes that are in use at the same time.

  """
  members = len(run.seeds) * len(run.learning_rates)
  # The lower bound on memory omits activations for corpus tasks, because batch shapes vary.
  tokens = 0 if task.streams else run.batch_size * batch.target.shape[1]
  activations = tokens * (run.depth * width + task.output_space.size)
  return FLOAT_BYTES * parameters * (3 * members + 1) + jnp.dtype(run.dtype).itemsize * activations


def _decoding_memory_bytes(run: Run, task: Task, batch: Batch) -> int:
  """Returns the total size in bytes of the beam-search logits and the test batches.

  The result is 0 for a task without decoding.
  """
  if task.model_kind == 'layer':
    return 0
  tokens = batch.source.shape[1] + batch.target.shape[1]
  beams = run.batch_size * run.beam * task.output_space.size
  return FLOAT_BYTES * (beams + run.test_batches * run.batch_size * tokens)


def check_memory_limit(
    run: Run, layer: SequenceLayer, task: Task, batch: Batch, width: int) -> None:
  """Raises BadInput if a run needs more than MAX_RUN_BYTES of memory.

  Args:
    run: the settings.
    layer: the sequence layer in the model's blocks.
    task: the task of the run.
    batch: shapes of a batch of one sequence.
    width: model width D.

  Raises:
    BadInput: if the run needs more memory.

  """
  size = model_sizes(run, layer, task, width)
  needed = training_memory_bytes(run, task, batch, size.parameters, width)
  needed += _decoding_memory_bytes(run, task, batch)
  needed += FLOAT_BYTES * run.batch_size * size.state
  if needed > MAX_RUN_BYTES:
    raise BadInput(
      f'{run.layer} on {run.task} would take at least {format_bytes(needed)}, but the limit is '
      f'{format_bytes(MAX_RUN_BYTES)}: width {width}, depth {run.depth}, '
      f'{size.parameters} parameters, batches of {run.batch_size}'
    )


def check_training_fits_in_memory(
    run: Run, task: Task, batch: Batch, parameters: int, width: int) -> None:
  """Raises MemoryError if this machine's devices have too little memory to train a run.

  Args:
    run: the settings.
    task: the task of the run.
    batch: shapes of a batch of one sequence.
    parameters: number of parameters of a member.
    width: model width D.

  Raises:
    MemoryError: if the memory does not suffice.

  """
  needed = training_memory_bytes(run, task, batch, parameters, width)
  available = total_device_memory()
  if needed > available:
    raise MemoryError(f'the run takes at least {format_bytes(needed)}, '
                      f'but this machine has {format_bytes(available)}')


def total_device_memory() -> float:
  """Returns the total memory of all devices in bytes, or infinity if a device reports none."""
  devices = jax.devices()
  if devices[0].platform == 'cpu':
    return memory.available_bytes()
  return sum((device.memory_stats() or {}).get('bytes_limit', math.inf) for device in devices)
