"""From a run to its task and its model, at the width at which budgets match."""

import functools
import itertools

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.launch import sizes
from experiments.launch.errors import BadInput
from experiments.launch.run import Run
from experiments.launch.spec import describe, parse
from experiments.tasks.task import Batch, Task
from transformer.block import Block
from transformer.feedforward import FeedForward
from transformer.layer import SequenceLayer
from transformer.model import DecoderOnly, EncoderDecoder, tied_embedding
from transformer.normalization import LayerNorm
from transformer.stack import Stack

REFERENCE = {'layer': 'attention', 'translator': 'transformer'}  # they set the budget
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
  """The run's task at its test lengths, each asking only what lies beyond the one before.

  They lie beyond the trained one; but a transduction can be asked from the shortest on.
  """
  task, found = task_of(run), []
  for length in run.test_lengths:
    longer = found or length > task.distance
    if not longer and task.answered_by == 'layer':
      raise BadInput(f'--test_lengths lie beyond the trained {task.distance}, not at {length}')
    try:
      task = task.beyond(length) if longer else task.at(length)
    except ValueError as error:
      raise BadInput(f'--test_lengths: {error}') from None
    found.append(task)
  return found


def layer_of(run: Run):
  """The run's layer; where its task is to translate, what makes encoder and decoder of one."""
  return parse(run.layer, task_of(run).answered_by)


def model_of(run: Run, layer, task: Task, width: int) -> nn.Module:
  """The layer in the run's shell, between an embedding and a head that suit the task."""
  return {'layer': decoder_only, 'translator': encoder_decoder}[task.answered_by](
    run, layer, task, width
  )


def stack_of(run: Run, blocks, depth: int = 1) -> Stack:
  """Blocks, each a tuple of layers: every layer in the run's shell, a feed-forward after each."""
  shell, after = functools.partial(SHELLS[run.shell], dropout=run.dropout), ()
  if run.feedforward != 'none':
    after = (FeedForward(run.feedforward, run.expansion),)
  return Stack(tuple(shell(part) for block in blocks for part in (*block, *after)), depth)


def decoder_only(run: Run, layer: SequenceLayer, task: Task, width: int) -> DecoderOnly:
  """Answers at every position of what it reads.

  A hybrid's layers take turns, one a block; at a depth that is no multiple of their number the
  last turn is cut short.
  """
  pattern = layer.pattern
  if run.depth % len(pattern):
    pattern = tuple(itertools.islice(itertools.cycle(pattern), run.depth))
  return DecoderOnly(
    embedding=EMBEDDINGS[task.inputs.kind](task.inputs.size, width),
    stack=stack_of(run, [(part,) for part in pattern], run.depth // len(pattern)),
    head=nn.Dense(task.outputs.size),
    normalization=LayerNorm() if run.shell == 'pre' else None,
    dtype=jnp.dtype(run.dtype),
  )


def encoder_decoder(run: Run, translator, task: Task, width: int) -> EncoderDecoder:
  """Reads a source and writes a target in the same vocabulary; all embeddings are one matrix."""
  encoder, decoder = (
    stack_of(run, blocks(run.depth)) for blocks in (translator.encoder, translator.decoder)
  )
  if run.feedforward != 'none' and not any(level.bridge for level in decoder.levels):
    encoder = Stack(encoder.layers[:-1])  # its states are handed on; nobody reads its output
  return EncoderDecoder(
    embedding=tied_embedding(task.inputs.size, width),
    encoder=encoder,
    decoder=decoder,
    normalization=LayerNorm() if run.shell == 'pre' else None,
    dropout=run.dropout,
    carry_state=translator.carry_state,
    reverse_source=translator.reverse_source,
    dtype=jnp.dtype(run.dtype),
  )


def width_multiple(run: Run, layer) -> int:
  """The widths that a layer's model can take are the multiples of this."""
  if task_of(run).answered_by == 'layer':
    return layer.width_multiple
  blocks = *layer.encoder(run.depth), *layer.decoder(run.depth)
  return stack_of(run, blocks).width_multiple


def shapes_of(task: Task) -> Batch:
  """The shapes of a batch of one sequence."""
  if task.streams:  # a corpus's batches have several; this is the longest
    return Batch(*(jax.ShapeDtypeStruct((1, task.source_length), kind)
                   for kind in (jnp.int32, jnp.int32, jnp.float32)))
  return jax.eval_shape(lambda: task.batch('train', 0, 1))


def count_parameters(model: nn.Module, task: Task) -> int:
  """How many numbers training changes."""
  def initialise():
    short = jax.tree.map(lambda x: jnp.zeros((1, 1, *x.shape[2:]), x.dtype), shapes_of(task))
    arguments, named = task.arguments(short)
    return model.init(jax.random.key(0), *arguments, **named)

  parameters = jax.eval_shape(initialise)
  return sum(leaf.size for leaf in jax.tree.leaves(parameters))


def check(run: Run) -> None:
  """A BadInput for what a run cannot be: widths or lengths that do not suit, absurd sizes."""
  try:
    tasks = task_of(run), *farther(run)
    for task in tasks:
      fits(run, task)
    layer = layer_of(run)
    own = width_multiple(run, layer)  # what is matched is at least as wide
    suited = {layer: own if run.match == 'params' else run.width}
    if run.match == 'params':
      suited[parse(REFERENCE[tasks[0].answered_by], tasks[0].answered_by)] = run.width
    for each, width in suited.items():
      suits(run, each, width)
      sizes.check(run, getattr(each, 'layer', each), tasks[0], shapes_of(tasks[0]), width)
  except ValueError as error:
    raise BadInput(str(error)) from None


def suits(run: Run, layer, width: int) -> None:
  """A BadInput for a width that a layer's model cannot have."""
  multiple = width_multiple(run, layer)
  if width % multiple:
    raise BadInput(
      f'--width={width} does not suit {describe(layer, task_of(run).answered_by)}: '
      f'it takes multiples of {multiple}'
    )


def fits(run: Run, task: Task) -> None:
  """A BadInput if a task's sequences are longer than the positions that the run's model has."""
  layer = layer_of(run)
  if not all(getattr(part, 'causal', True) for part in getattr(layer, 'pattern', ())):
    raise BadInput(f'{run.layer} reads what comes after a token: that is for encoders')
  positions = getattr(getattr(layer, 'layer', layer), 'positions', None)
  most = getattr(positions, 'max_length', None)
  length = jax.tree.map(lambda x: x.shape[1], shapes_of(task))
  if most is not None and max(length) > most:
    raise BadInput(
      f'{describe(task, "task")} has sequences of {max(length)} tokens, '
      f'but {run.layer} has positions for {most}'
    )


def matched(run: Run) -> tuple[nn.Module, dict]:
  """The run's model, and what was matched: its width, its parameters, and the budget.

  A layer that only takes multiples of some width gets the one whose count is nearest.
  """
  task, layer = task_of(run), layer_of(run)
  try:
    def count(layer, width):
      return count_parameters(model_of(run, layer, task, width), task)

    reference = parse(REFERENCE[task.answered_by], task.answered_by)
    width, budget = run.width, None
    if run.match == 'params':
      budget = count(reference, run.width)
      multiple = width_multiple(run, layer)
      width = nearest_width(functools.partial(count, layer), budget, multiple, width)
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
