"""Layers one above another, `depth` times over, each with parameters and a state of its own."""

import math

import jax.numpy as jnp
from flax import linen as nn

from transformer.bidirectional import bidirectional_of
from transformer.layer import SequenceLayer


class Stack(SequenceLayer):
  """The layers in turn, and again, `depth` times; the states are threaded through."""

  layers: tuple[SequenceLayer, ...]
  depth: int = 1

  def __post_init__(self):
    super().__post_init__()
    if self.depth < 1 or not self.layers:
      raise ValueError(f'a stack of {len(self.layers)} layers, {self.depth} times over, is empty')

  @property
  def receptive_field(self):
    """1 + the sum of what each layer adds; unbounded if one of them is."""
    fields = [layer.receptive_field for layer in self.layers]
    return None if None in fields else 1 + self.depth * sum(field - 1 for field in fields)

  @property
  def padding_takes_time(self):
    """In any of the layers."""
    return any(layer.padding_takes_time for layer in self.layers)

  @property
  def input_layer(self):
    """The first that one of the layers asks for."""
    return next((layer.input_layer for layer in self.layers if layer.input_layer is not None), None)

  @property
  def bidirectional(self):
    """Layer by layer."""
    return self.clone(layers=tuple(map(bidirectional_of, self.layers)))

  @property
  def levels(self) -> tuple[SequenceLayer, ...]:
    """All layers, bottom first."""
    return self.layers * self.depth

  @property
  def width_multiple(self):
    """What suits all the layers."""
    return math.lcm(*(layer.width_multiple for layer in self.layers))

  def initial_state(self, batch_size, capacity, width, dtype=jnp.float32):
    """One state a layer, bottom first."""
    return tuple(
      layer.initial_state(batch_size, capacity, width, dtype) for layer in self.levels
    )

  @nn.compact
  def __call__(self, x, state=None, *, mask=None, train=False):  # [B, T, D]
    states = []
    for level, template in enumerate(self.levels):
      layer = template.copy(name=f'level_{level}')
      below = None if state is None else state[level]
      x, after = layer(x, below, mask=mask, train=train)
      states.append(after)
    return x, tuple(states)
