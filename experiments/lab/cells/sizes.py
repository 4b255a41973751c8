"""The bytes that a run takes at the least, counted from shapes before anything of it is built.

  parameters    of every layer, the embeddings and the head
  training      a value and Adam's two moments for each parameter of each member, and one gradient
  activations   what one batch leaves for the backward pass: the input of each block, the logits
  states        what a layer remembers of each sequence of a batch, such as a convolution's window

A run that needs more than any machine has is a mistake, and is refused in one line. A run that
needs more than this machine has is a result: it ran out of memory.
"""

import collections
import functools
import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from experiments.lab.cells.limits import AXIS, FLOAT_BYTES, in_bytes, row
from experiments.lab.cells.run import Run
from experiments.lab.errors import BadInput
from experiments.lab.measure import memory
from experiments.lab.tasks.task import Batch, Task
from transformer.layer import SequenceLayer

LARGEST = 2**44  # bytes


class Sizes(NamedTuple):
  """Numbers of a layer, or of several."""

  parameters: int
  state: int  # for one sequence


@functools.cache
def of_layer(layer: SequenceLayer, width: int) -> Sizes:
  """The numbers of one layer at a width; a BadInput for a window that no array can hold."""
  field = layer.receptive_field or 0
  if field > AXIS:
    raise BadInput(f'{type(layer).__name__} sees {field} tokens, at most {AXIS}: {row(field)}')
  trees = (
    jax.eval_shape(lambda: layer.init(jax.random.key(0), jnp.zeros((1, 1, width)))),
    jax.eval_shape(lambda: layer.initial_state(1, 1, width)),
  )
  return Sizes(*(sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in trees))


def of_model(run: Run, layer: SequenceLayer, task: Task, width: int) -> Sizes:
  """The numbers of a run's model at a width, of an encoder-decoder those of one side."""
  turns = itertools.islice(itertools.cycle(layer.pattern), run.depth)
  counts = collections.Counter(turns)
  if layer.input_layer is not None:
    counts[layer.input_layer] += 1
  parts = [(of_layer(part, width), count) for part, count in counts.items()]
  ends = width * (task.inputs.size + (task.outputs.size if task.answered_by == 'layer' else 0))
  inner = 0 if run.feedforward == 'none' else round(run.expansion * width)
  return Sizes(
    sum(count * size.parameters for size, count in parts) + ends + 2 * run.depth * width * inner,
    sum(count * size.state for size, count in parts),
  )


def of_training(run: Run, task: Task, batch: Batch, parameters: int, width: int) -> int:
  """The bytes that training holds at once if it trains one member after another.

  Args:
    run: the run.
    task: its task.
    batch: the shapes of a batch of one sequence.
    parameters: how many a member has.
    width: that of the model.

  """
  members = len(run.seeds) * len(run.learning_rates)
  # A corpus has batches of many shapes: nothing is counted of them.
  tokens = 0 if task.streams else run.batch_size * batch.target.shape[1]
  activations = tokens * (run.depth * width + task.outputs.size)
  return FLOAT_BYTES * parameters * (3 * members + 1) + jnp.dtype(run.dtype).itemsize * activations


def of_writing(run: Run, task: Task, batch: Batch) -> int:
  """The bytes of what a translator writes: the logits of a beam, and all batches of the test."""
  if task.answered_by == 'layer':
    return 0
  tokens = batch.source.shape[1] + batch.target.shape[1]
  beams = run.batch_size * run.beam * task.outputs.size
  return FLOAT_BYTES * (beams + run.test_batches * run.batch_size * tokens)


def check(run: Run, layer: SequenceLayer, task: Task, batch: Batch, width: int) -> None:
  """A BadInput for a run that would take more than LARGEST bytes with a layer at a width."""
  size = of_model(run, layer, task, width)
  needed = of_training(run, task, batch, size.parameters, width) + of_writing(run, task, batch)
  needed += FLOAT_BYTES * run.batch_size * size.state
  if needed > LARGEST:
    raise BadInput(
      f'{run.layer} on {run.task} would take {in_bytes(needed)} at the least, and '
      f'{in_bytes(LARGEST)} is the most that is tried: width {width}, depth {run.depth}, '
      f'{size.parameters} parameters, batches of {run.batch_size}'
    )


def require(run: Run, task: Task, batch: Batch, parameters: int, width: int) -> None:
  """A MemoryError for a run that this machine has too little memory to train."""
  needed, there = of_training(run, task, batch, parameters, width), room()
  if needed > there:
    raise MemoryError(f'it needs {in_bytes(needed)} at the least, and {in_bytes(there)} are here')


def room() -> float:
  """Bytes of this machine's devices together; infinity where they do not tell."""
  devices = jax.devices()
  if devices[0].platform == 'cpu':
    return memory.available()
  return sum((device.memory_stats() or {}).get('bytes_limit', math.inf) for device in devices)
