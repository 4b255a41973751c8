"""A stack of layers, each with separate parameters and a separate state."""

import math

import jax.numpy as jnp
from flax import linen as nn

from transformer.bidirectional import make_bidirectional
from transformer.layer import SequenceLayer


class Stack(SequenceLayer):
  """A stack that repeats a tuple of layers `depth` times, with separate parameters."""

  layers: tuple[SequenceLayer, ...]
  depth: int = 1

  def __post_init__(self):
    super().__post_init__()
    if self.depth < 1 or not self.layers:
      raise ValueError(f'a stack requires at least one layer and a depth of at least 1, not '
                       f'{len(self.layers)} layers and a depth of {self.depth}')

  @property
  def receptive_field(self):
    """The number of input tokens that each output of the stack depends on, or None if unbounded."""
    fields = [layer.receptive_field for layer in self.layers]
    return None if None in fields else 1 + self.depth * sum(field - 1 for field in fields)

  @property
  def padding_occupies_positions(self):
    """Whether padding between two valid tokens increases their distance in any of the layers."""
    return any(layer.padding_occupies_positions for layer in self.layers)

  @property
  def input_layer(self):
    """The layer that the model applies to the embeddings before the stack, or None.

    This is the `input_layer` of the first layer of the stack that defines one.
    """
    return next((layer.input_layer for layer in self.layers if layer.input_layer is not None), None)

  @property
  def bidirectional_version(self):
    """A copy of this stack with the bidirectional variants of its layers."""
    return self.clone(layers=tuple(map(make_bidirectional, self.layers)))

  @property
  def all_layers(self) -> tuple[SequenceLayer, ...]:
    """All layers of the stack from input to output, depth * len(layers) in number."""
    return self.layers * self.depth

  @property
  def required_width_divisor(self):
    """The smallest number whose multiples are valid model widths for all layers."""
    return math.lcm(*(layer.required_width_divisor for layer in self.layers))

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """Returns a tuple of the initial states of all layers, from input to output."""
    return tuple(
      layer.initial_state(batch_size, capacity, width, dtype) for layer in self.all_layers
    )

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    next_states = []
    for level, template in enumerate(self.all_layers):
      layer = template.copy(name=f'level_{level}')
      level_state = None if state is None else state[level]
      x, next_state = layer(x, level_state, mask=mask, train=train)
      next_states.append(next_state)
    return x, tuple(next_states)
