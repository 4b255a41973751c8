"""From a run to its task and its model, at the width at which budgets match."""

import functools
import itertools

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.launch.errors import BadInput
from experiments.launch.run import Run
from experiments.launch.spec import describe, parse
from experiments.tasks.task import Task
from transformer.block import Block
from transformer.feedforward import FeedForward
from transformer.layer import SequenceLayer
from transformer.model import DecoderOnly
from transformer.stack import Stack

REFERENCE = 'attention'  # the Transformer sets the budget
TOLERANCE = 0.01  # of the budget; beyond it a table says so
SHELLS = {
  **{norm: functools.partial(Block, norm=norm) for norm in ('pre', 'post', 'none')},
  'classic': functools.partial(Block, norm='none', residual=False),
}
# Unit variance, which is what the paper's factor sqrt(D) on its embeddings comes to.
EMBEDDINGS = {
  'tokens': functools.partial(nn.Embed, embedding_init=nn.initializers.normal(1.0)),
  'reals': lambda size, width: nn.Dense(width),
}


def task_of(run: Run) -> Task:
  """The run's task."""
  return parse(run.task, 'task')


def farther(run: Run) -> list[Task]:
  """The run's task at its test lengths, each asking only what lies beyond the one before."""
  task, found = task_of(run), []
  for length in run.test_lengths:
    if length <= task.distance:
      raise BadInput(f'--test_lengths lie beyond the trained {task.distance}, not at {length}')
    try:
      task = task.beyond(length)
    except ValueError as error:
      raise BadInput(f'--test_lengths: {error}') from None
    found.append(task)
  return found


def layer_of(run: Run) -> SequenceLayer:
  """The run's layer."""
  return parse(run.layer, 'layer')


def model_of(run: Run, layer: SequenceLayer, task: Task, width: int) -> DecoderOnly:
  """The layer in the run's shell, between an embedding and a head that suit the task.

  A hybrid's layers take turns, one a block; at a depth that is no multiple of their number the
  last turn is cut short.
  """
  shell, pattern = functools.partial(SHELLS[run.shell], dropout=run.dropout), layer.pattern
  if run.depth % len(pattern):
    pattern = tuple(itertools.islice(itertools.cycle(pattern), run.depth))
  after = ()
  if run.feedforward != 'none':
    after = (shell(FeedForward(run.feedforward, run.expansion)),)
  blocks = [block for part in pattern for block in (shell(part), *after)]
  return DecoderOnly(
    embedding=EMBEDDINGS[task.inputs.kind](task.inputs.size, width),
    stack=Stack(tuple(blocks), run.depth // len(pattern)),
    head=nn.Dense(task.outputs.size),
    last_norm=run.shell == 'pre',
    dtype=jnp.dtype(run.dtype),
  )


def count_parameters(model: DecoderOnly, task: Task) -> int:
  """How many numbers training changes."""
  source = jax.eval_shape(lambda: task.batch('train', 0, 1).source[:, :1])
  parameters = jax.eval_shape(model.init, jax.random.key(0), source)
  return sum(leaf.size for leaf in jax.tree.leaves(parameters))


def check(run: Run) -> None:
  """A BadInput for what a run cannot be: a width that does not suit, no longer lengths to test."""
  farther(run)
  layer = parse(REFERENCE if run.match == 'params' else run.layer, 'layer')
  if run.width % layer.width_multiple:
    raise BadInput(
      f'--width={run.width} does not suit {describe(layer, "layer")}: '
      f'it takes multiples of {layer.width_multiple}'
    )


def matched(run: Run) -> tuple[DecoderOnly, dict]:
  """The run's model, and what was matched: its width, its parameters, and the budget.

  A layer that only takes multiples of some width gets the one whose count is nearest.
  """
  task, layer = task_of(run), layer_of(run)
  try:
    def count(layer, width):
      return count_parameters(model_of(run, layer, task, width), task)

    reference = parse(REFERENCE, 'layer')
    width, budget = run.width, None
    if run.match == 'params':
      budget = count(reference, run.width)
      width = nearest_width(functools.partial(count, layer), budget, layer.width_multiple, width)
    model = model_of(run, layer, task, width)
    return model, {'width': width, 'parameters': count(layer, width), 'budget': budget}
  except ValueError as error:  # such as a width that the heads do not share
    raise BadInput(str(error)) from None


def nearest_width(count, budget: int, multiple: int, start: int) -> int:
  """The multiple at which `count`, which grows with the width, is nearest to a budget."""
  count = functools.cache(count)
  low, high = 0, max(1, start // multiple)  # the count at `low` is below the budget
  while count(high * multiple) < budget:
    low, high = high, 2 * high
  while high - low > 1:
    # About quadratic in the width: its root is a better guess than the middle.
    guess = round((high * multiple) * (budget / count(high * multiple)) ** 0.5 / multiple)
    middle = min(max(guess, low + 1), high - 1)
    if count(middle * multiple) < budget:
      low = middle
    else:
      high = middle
  candidates = [width * multiple for width in (low, high) if width]
  return min(candidates, key=lambda width: abs(count(width) - budget))
