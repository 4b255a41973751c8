"""Construction of models from a layer, the settings of a run and the vocabulary of a task."""

import functools
import itertools

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.lab.cells.run import Run
from experiments.lab.tasks.task import Batch, Task
from transformer.block import Block
from transformer.dense import Dense
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
# Unit-variance embeddings replace the Transformer paper's multiplication by sqrt(D).
EMBEDDINGS = {
  'tokens': functools.partial(nn.Embed, embedding_init=nn.initializers.normal(1.0)),
  'reals': lambda size, width: Dense(width),
}


def build_model(run: Run, layer, task: Task, width: int) -> nn.Module:
  """Builds a model for a task from a layer and the residual-block settings of a run.

  Args:
    run: the settings, of which depth, block, feed-forward network, dropout and dtype are used.
    layer: a sequence layer or, for a translation task, a translator.
    task: the task, which determines embedding and output head.
    width: model width D.

  Returns:
    A `DecoderOnly` model or, for a translation task, an `EncoderDecoder` model.

  """
  return {'layer': _build_decoder_only, 'translator': _build_encoder_decoder}[task.model_kind](
    run, layer, task, width
  )


def build_stack(run: Run, layers_of_each_block, num_repetitions: int = 1) -> Stack:
  """Builds a stack of residual blocks.

  Args:
    run: the settings, of which block, dropout and feed-forward network are used.
    layers_of_each_block: one tuple of layers per block. Each layer is wrapped in the run's kind of
      residual block, and each tuple is followed by the run's feed-forward network if it has one.
    num_repetitions: number of repetitions of all blocks, each with its own parameters.

  Returns:
    The stack.

  """
  wrap, feedforward = functools.partial(BLOCKS[run.block], dropout=run.dropout), ()
  if run.feedforward != 'none':
    feedforward = (FeedForward(run.feedforward, run.expansion),)
  blocks = tuple(
    wrap(layer) for layers in layers_of_each_block for layer in (*layers, *feedforward))
  return Stack(blocks, num_repetitions)


def _build_decoder_only(run: Run, layer: SequenceLayer, task: Task, width: int) -> DecoderOnly:
  """Builds a decoder-only model, which has one output per input position.

  The layers of a hybrid alternate from block to block. If the depth is not a multiple of their
  number, the last repetition is incomplete.
  """
  pattern = layer.layer_pattern
  if run.depth % len(pattern):
    pattern = tuple(itertools.islice(itertools.cycle(pattern), run.depth))
  return DecoderOnly(
    embedding=EMBEDDINGS[task.input_space.kind](task.input_space.size, width),
    stack=build_stack(run, [(part,) for part in pattern], run.depth // len(pattern)),
    head=Dense(task.output_space.size),
    normalization=LayerNorm() if run.block == 'pre_norm' else None,
    dtype=jnp.dtype(run.dtype),
  )


def _build_encoder_decoder(run: Run, translator, task: Task, width: int) -> EncoderDecoder:
  """Builds an encoder-decoder model whose embeddings and output head share one matrix."""
  encoder, decoder = (
    build_stack(run, blocks(run.depth)) for blocks in (translator.encoder, translator.decoder)
  )
  if run.feedforward != 'none' and not any(level.source_projection for level in decoder.all_layers):
    # Without cross-attention, the decoder receives only the final states of the encoder's layers.
    # Without cross-attention, the last feed-forward network of the encoder thus has no effect.
    encoder = Stack(encoder.layers[:-1])
  return EncoderDecoder(
    embedding=tied_embedding(task.input_space.size, width),
    encoder=encoder,
    decoder=decoder,
    normalization=LayerNorm() if run.block == 'pre_norm' else None,
    dropout=run.dropout,
    carry_state=translator.carry_state,
    reverse_source=translator.reverses_source,
    dtype=jnp.dtype(run.dtype),
  )


def first_block_input(model: DecoderOnly, parameters, source: jax.Array) -> jax.Array:
  """Computes the input of a model's first residual block from the model's input.

  Args:
    model: the model.
    parameters: its parameters.
    source: input tokens [B, T], or real inputs [B, T, C].

  Returns:
    The embeddings [B, T, D], to which the model's input layer, if any, has been applied.

  """
  x = model.embedding.apply({'params': parameters['embedding']}, source)
  input_layer = model.stack.input_layer
  if input_layer is None:
    return x
  return input_layer.apply({'params': parameters.get('prelude', {})}, x)[0]


def required_model_width_divisor(run: Run, layer, task: Task) -> int:
  """Returns the number that must divide the model width, such as the number of heads.

  Args:
    run: the settings, of which depth, block and feed-forward network are used.
    layer: a sequence layer or, for a translation task, a translator.
    task: the task, which determines the kind of model.

  Returns:
    A positive number, which is 1 if every width is valid.

  """
  if task.model_kind == 'layer':
    return layer.required_width_divisor
  blocks = *layer.encoder(run.depth), *layer.decoder(run.depth)
  return build_stack(run, blocks).required_width_divisor


def batch_shapes(task: Task) -> Batch:
  """Returns the shapes and dtypes of a batch that contains one sequence of a task."""
  if task.streams:  # batches of a corpus have several lengths, of which this is the largest
    return Batch(*(jax.ShapeDtypeStruct((1, task.source_length), dtype)
                   for dtype in (jnp.int32, jnp.int32, jnp.float32)))
  return jax.eval_shape(lambda: task.batch('train', 0, 1))


@functools.lru_cache(maxsize=256)
def count_parameters(model: nn.Module, task: Task) -> int:
  """Returns the number of trainable parameters of a model for a task."""
  def initialise_model():
    short = jax.tree.map(lambda x: jnp.zeros((1, 1, *x.shape[2:]), x.dtype), batch_shapes(task))
    arguments, named = task.model_arguments(short)
    return model.init(jax.random.key(0), *arguments, **named)

  parameters = jax.eval_shape(initialise_model)
  return sum(leaf.size for leaf in jax.tree.leaves(parameters))
