"""From a layer to a whole model: in the shell of a run, between what a task reads and answers."""

import functools
import itertools

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.lab.cells.run import Run
from experiments.lab.tasks.task import Batch, Task
from transformer.block import Block
from transformer.feedforward import FeedForward
from transformer.layer import SequenceLayer
from transformer.model import DecoderOnly, EncoderDecoder, tied_embedding
from transformer.normalization import LayerNorm
from transformer.stack import Stack

BLOCKS = {
  'pre_norm': functools.partial(Block, norm='pre'),
  'post_norm': functools.partial(Block, norm='post'),
  'no_norm': functools.partial(Block, norm='none'),
  'plain': functools.partial(Block, norm='none', residual=False),
}
# Unit variance, which is what the paper's factor sqrt(D) on its embeddings comes to.
EMBEDDINGS = {
  'tokens': functools.partial(nn.Embed, embedding_init=nn.initializers.normal(1.0)),
  'reals': lambda size, width: nn.Dense(width),
}


def model_of(run: Run, layer, task: Task, width: int) -> nn.Module:
  """The layer in the run's shell, between an embedding and a head that suit the task."""
  return {'layer': decoder_only, 'translator': encoder_decoder}[task.answered_by](
    run, layer, task, width
  )


def stack_of(run: Run, blocks, depth: int = 1) -> Stack:
  """A stack of blocks, each a tuple of layers that are wrapped in the run's kind of block.

  If the run has a feed-forward network, each tuple of layers is followed by one.
  """
  wrap, feedforward = functools.partial(BLOCKS[run.block], dropout=run.dropout), ()
  if run.feedforward != 'none':
    feedforward = (FeedForward(run.feedforward, run.expansion),)
  return Stack(tuple(wrap(layer) for layers in blocks for layer in (*layers, *feedforward)), depth)


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
    normalization=LayerNorm() if run.block == 'pre_norm' else None,
    dtype=jnp.dtype(run.dtype),
  )


def encoder_decoder(run: Run, translator, task: Task, width: int) -> EncoderDecoder:
  """Reads a source and writes a target in the same vocabulary; all embeddings are one matrix."""
  encoder, decoder = (
    stack_of(run, blocks(run.depth)) for blocks in (translator.encoder, translator.decoder)
  )
  if run.feedforward != 'none' and not any(level.source_projection for level in decoder.levels):
    encoder = Stack(encoder.layers[:-1])  # its states are handed on; nobody reads its output
  return EncoderDecoder(
    embedding=tied_embedding(task.inputs.size, width),
    encoder=encoder,
    decoder=decoder,
    normalization=LayerNorm() if run.block == 'pre_norm' else None,
    dropout=run.dropout,
    carry_state=translator.carry_state,
    reverse_source=translator.reverse_source,
    dtype=jnp.dtype(run.dtype),
  )


def entering(model: DecoderOnly, parameters, source: jax.Array) -> jax.Array:
  """What a model's first block reads: a source's embeddings, with what the layers want added."""
  x = model.embedding.apply({'params': parameters['embedding']}, source)
  input_layer = model.stack.input_layer
  if input_layer is None:
    return x
  return input_layer.apply({'params': parameters.get('prelude', {})}, x)[0]


def width_multiple(run: Run, layer, task: Task) -> int:
  """The widths that a layer's model can take are the multiples of this."""
  if task.answered_by == 'layer':
    return layer.width_multiple
  blocks = *layer.encoder(run.depth), *layer.decoder(run.depth)
  return stack_of(run, blocks).width_multiple


def shapes_of(task: Task) -> Batch:
  """The shapes of a batch of one sequence."""
  if task.streams:  # a corpus's batches have several; this is the longest
    return Batch(*(jax.ShapeDtypeStruct((1, task.source_length), kind)
                   for kind in (jnp.int32, jnp.int32, jnp.float32)))
  return jax.eval_shape(lambda: task.batch('train', 0, 1))


@functools.lru_cache(maxsize=256)
def count_parameters(model: nn.Module, task: Task) -> int:
  """How many numbers training changes."""
  def initialise():
    short = jax.tree.map(lambda x: jnp.zeros((1, 1, *x.shape[2:]), x.dtype), shapes_of(task))
    arguments, named = task.arguments(short)
    return model.init(jax.random.key(0), *arguments, **named)

  parameters = jax.eval_shape(initialise)
  return sum(leaf.size for leaf in jax.tree.leaves(parameters))


