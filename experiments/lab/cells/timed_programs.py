"""Programs whose durations are measured, compiled ahead of time once for all repetitions."""

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from experiments.lab.measure import work
from experiments.lab.training.step import Training

batch = jax.jit(
  lambda task, split, index, size: task.batch(split, index, size), static_argnums=(0, 1, 3)
)
initialise = jax.jit(Training.initialise, static_argnums=0)


class CompiledProgram(NamedTuple):
  """A program, the number of its operations, and the time to compile it without tracing."""

  program: Any
  operations: int
  compile_seconds: float


def _compile(function, *argument_shapes) -> CompiledProgram:
  traced = jax.jit(function).trace(*argument_shapes)
  lowered = traced.lower()
  start = time.perf_counter()
  program = lowered.compile()
  compile_seconds = time.perf_counter() - start
  count = work.count_operations_and_bytes_of_jaxpr(traced.jaxpr.jaxpr)
  return CompiledProgram(program, count.products + count.elementwise, compile_seconds)


@functools.cache
def compile_training_step(trainer: Training) -> CompiledProgram:
  """Compiles (state, batch) -> (state, metrics) for the shape of the task's training batches."""
  return _compile(trainer.train_step, *_state_and_batch_shapes(trainer))


@functools.cache
def compile_forward_pass(trainer: Training) -> CompiledProgram:
  """Compiles (parameters, source) -> logits for the shape of the task's training batches."""
  state, batch = _state_and_batch_shapes(trainer)
  return _compile(
    lambda parameters, source: trainer.model.apply(parameters, source)[0],
    state.parameters, batch.source)


def _state_and_batch_shapes(trainer: Training):
  number = functools.partial(jax.ShapeDtypeStruct, ())
  state = jax.eval_shape(trainer.initialise, number(jnp.int32), number(jnp.float32))
  return state, jax.eval_shape(lambda: trainer.task.batch('train', 0, trainer.recipe.batch_size))


class SingleLayer(NamedTuple):
  """A layer without residual block, for as many tokens as a training step has.

  Attributes:
    layer: the layer.
    width: the model width D.
    trainer: has a task and a batch size, which determine B and T.

  """

  layer: nn.Module
  width: int
  trainer: Training

  def outputs(self, parameters, x):
    """The outputs [B, T, D] for inputs x [B, T, D]."""
    return self.layer.apply(parameters, x)[0]

  def outputs_and_gradients(self, parameters, x, y_gradient):
    """Computes the outputs of the layer and the gradients of its parameters and inputs.

    Args:
      parameters: the parameters of the layer.
      x: the inputs [B, T, D].
      y_gradient: a gradient of the outputs [B, T, D].

    Returns:
      The outputs, and a pair of the gradients of the parameters and of x.

    """
    y, backward = jax.vjp(self.outputs, parameters, x)
    return y, backward(y_gradient)


@functools.partial(jax.jit, static_argnums=0)
def layer_arguments(single: SingleLayer, seed: int) -> tuple:
  """Draws a layer's parameters, inputs [B, T, D] and a gradient of the outputs [B, T, D]."""
  keys = jax.random.split(jax.random.key(seed), 3)
  shape = *_state_and_batch_shapes(single.trainer)[1].source.shape, single.width
  x, y_gradient = (jax.random.normal(key, shape, single.trainer.recipe.dtype) for key in keys[:2])
  return single.layer.init(keys[2], x), x, y_gradient


@functools.cache
def compile_layer(single: SingleLayer) -> CompiledProgram:
  """Compiles (parameters, x) -> y for the shapes of `layer_arguments`."""
  *layer_inputs, _ = jax.eval_shape(functools.partial(layer_arguments, single), 0)
  return _compile(single.outputs, *layer_inputs)


@functools.cache
def compile_layer_gradient(single: SingleLayer) -> CompiledProgram:
  """Compiles (parameters, x, gradient of y) -> (y, gradients of the parameters and of x)."""
  shapes = jax.eval_shape(functools.partial(layer_arguments, single), 0)
  return _compile(single.outputs_and_gradients, *shapes)


@functools.partial(jax.jit, static_argnums=0)
def decode_step(model, parameters, state, tokens):
  """Processes tokens of sequences, and predicts the next token of each.

  Args:
    model: the language model.
    parameters: its parameters.
    state: the state before the tokens.
    tokens: [B, T].

  Returns:
    The new state and the most likely next tokens [B, 1].

  """
  logits, state = model.apply(parameters, tokens, state)
  return state, jnp.argmax(logits[:, -1:], -1).astype(tokens.dtype)


@functools.partial(jax.jit, static_argnums=(0, 4))
def generate_tokens(model, parameters, state, token, num_tokens: int):
  """Generates tokens greedily in one compiled loop.

  Args:
    model: the language model.
    parameters: its parameters.
    state: the state before `token`.
    token: the latest tokens [B, 1].
    num_tokens: tokens to generate for each sequence.

  Returns:
    The new state and the last tokens [B, 1].

  """
  def generate_token(carry, _):
    return decode_step(model, parameters, *carry), None

  return jax.lax.scan(generate_token, (state, token), length=num_tokens)[0]
