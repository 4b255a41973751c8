"""Selective copying, in which a model copies symbols from random positions among blanks.

A context of L tokens has N symbols at random positions, and its other tokens are blank. After it
follow N markers, at which the symbols are to be reproduced in order. In copy memory the symbols
have the same positions in every sequence, so that a fixed convolution copies them. Here the input
to store must be selected by content.

Jing et al. 2019, "Gated orthogonal recurrent units" (as the denoise task); Gu and Dao 2023, "Mamba:
Linear-time sequence modeling with selective state spaces".
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from experiments.lab.tasks import draws
from experiments.lab.tasks.task import Batch, Space, Task, one_hot_logits, uniform_logits

BLANK = 0  # the symbols are 1, ..., V - 2 and the marker is V - 1


@dataclasses.dataclass(frozen=True)
class SelectiveCopying(Task):
  """Copying of all symbols of a context, without the blanks between them, in their order.

  A context of `length` tokens has `num_tokens` symbols, and its other tokens are blank. It is
  followed by `num_tokens` markers, whose targets are the symbols. Token 0 is the blank, tokens 1 to
  V - 2 are symbols and token V - 1 is the marker, for a vocabulary of size V. Two examples (`.` has
  no weight):

    selective_copying(length=10, num_tokens=4)
      source  0 7 0 0 3 3 0 0 0 12 15 15 15 15
      target  . . . . . . . . . .  7  3  3  12

    selective_copying(length=9, num_tokens=5, vocabulary_size=8)
      source  4 0 1 6 0 0 0 1 2 7 7 7 7 7
      target  . . . . . . . . . 4 1 6 1 2

  Published: L = 4096, N = 16, V = 16; 2 layers of width 64, 400,000 steps with batches of 64 at a
  constant rate of 1e-4; accuracy 99.8 % with Mamba, 18.3 % with S4.
  """

  length: int = 4096
  num_tokens: int = 16
  vocabulary_size: int = 16

  family: ClassVar[str] = 'selective_copying'
  axis: ClassVar[str] = 'length'
  solved: ClassVar[float] = 0.99

  def __post_init__(self):
    if not 1 <= self.num_tokens <= self.length:
      raise ValueError(
        f'num_tokens={self.num_tokens}: a context of length {self.length} can have 1 to'
        f' {self.length} symbols'
      )
    if self.vocabulary_size < 4:
      raise ValueError(
        f'vocabulary_size={self.vocabulary_size}: selective_copying needs at least 4 tokens,'
        f' a blank, a marker and two symbols'
      )

  @property
  def input_space(self) -> Space:
    """Tokens for the blank, the symbols and the marker, in this order."""
    return Space('tokens', self.vocabulary_size)

  @property
  def dependency_distance(self) -> int:
    """The context length, an upper bound on the distance from a symbol to its copy."""
    return self.length

  @property
  def marker_token(self) -> int:
    """The input token that marks the positions at which the model predicts a symbol."""
    return self.vocabulary_size - 1

  @property
  def chance_level(self) -> float:
    """The accuracy of a uniform random prediction of the symbols."""
    return 1 / (self.vocabulary_size - 2)

  @property
  def num_scored_positions(self) -> int:
    """The number of markers, one for each symbol."""
    return self.num_tokens

  def with_dependency_distance(self, distance: int) -> 'SelectiveCopying':
    """A copy of this task with a context of `distance` tokens and the same number of symbols."""
    return dataclasses.replace(self, length=distance)

  def batch(self, split: str, index, batch_size: int) -> Batch:
    """Random symbols at random positions among blanks, followed by one marker per symbol."""
    symbol_key, position_key = jax.random.split(self.batch_key(split, index))
    shape = batch_size, self.num_tokens
    symbols = jax.random.randint(symbol_key, shape, 1, self.marker_token)
    positions = jnp.sort(draws.sample_distinct(position_key, *shape, self.length), 1)
    blank = jnp.full((batch_size, self.length), BLANK)
    context = blank.at[jnp.arange(batch_size)[:, None], positions].set(symbols)
    source = jnp.concatenate([context, jnp.full(shape, self.marker_token)], 1)
    target = jnp.concatenate([blank, symbols], 1)
    return Batch(source, target, (source == self.marker_token).astype(jnp.float32))

  def oracle_outputs(self, source: jax.Array) -> jax.Array:
    """Logits that predict blanks and then the symbols of the context in order."""
    context = source[:, : self.length]
    positions = jnp.argsort(context == BLANK, axis=1, stable=True)[:, : self.num_tokens]
    symbols = jnp.take_along_axis(context, positions, 1)
    target = jnp.concatenate([jnp.full_like(context, BLANK), symbols], 1)
    return one_hot_logits(target, self.output_space.size)

  def baseline_outputs(self, source: jax.Array) -> jax.Array:
    """Logits of the uniform distribution over all symbols."""
    token = jnp.arange(self.output_space.size)
    is_symbol = (token != BLANK) & (token != self.marker_token)
    return jnp.broadcast_to(uniform_logits(is_symbol), (*source.shape, self.output_space.size))
