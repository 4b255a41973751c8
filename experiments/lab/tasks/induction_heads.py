"""Induction heads: what followed this token when it stood here before.

A trigger stands once among random tokens, and once more at the end, where the answer is the token
that followed it the first time. Attention in two layers does it by a previous-token head and a head
that looks for a match; a recurrent layer must notice the trigger and keep what comes next.

Olsson et al. 2022, "In-context learning and induction heads"; Fu et al. 2023, "Hungry hungry
hippos", for the task; Gu and Dao 2023, "Mamba: Linear-time sequence modeling with selective state
spaces", for lengths beyond training.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from experiments.lab.tasks.task import Batch, Space, Task, certain, uniform

TRIGGER = 0


@dataclasses.dataclass(frozen=True)
class InductionHeads(Task):
  """At the end, which is a trigger (0), the token that followed the only other trigger.

  Two examples (`.` has no weight):

    induction_heads(length=14)
      source  5 5 9 0 14 2 9 1 7 11 14 3 3 0
      target  . . . . .  . . . . .  .  . . 14

    induction_heads(length=16, vocabulary_size=4)
      source  0 2 1 1 3 2 2 3 1 2 3 3 1 2 1 0
      target  . . . . . . . . . . . . . . . 2

  Published: length 256, vocabulary 16, tested at 64 to 1,048,576; 2 layers of width 64 (Mamba) or
  128, Adam at a constant rate of 2e-4 or 1e-3, new batches of 8 for 204,800 steps. Mamba is
  perfect at every length, attention up to about twice the length of training.
  """

  length: int = 256
  vocabulary_size: int = 16

  family: ClassVar[str] = 'induction_heads'
  axis: ClassVar[str] = 'length'
  solved: ClassVar[float] = 0.99

  def __post_init__(self):
    if self.length < 3:
      raise ValueError(
        f'length={self.length}: induction_heads needs at least 3 tokens, for two triggers and'
        f' an answer'
      )
    if self.vocabulary_size < 3:
      raise ValueError(
        f'vocabulary_size={self.vocabulary_size}: induction_heads needs 3 tokens, for a trigger'
        f' and two answers'
      )

  @property
  def inputs(self) -> Space:
    """Tokens: the trigger, then the others."""
    return Space('tokens', self.vocabulary_size)

  @property
  def distance(self) -> int:
    """The length: the first trigger can be almost as far as that from the last."""
    return self.length

  @property
  def chance(self) -> float:
    """All tokens but the trigger are equally likely."""
    return 1 / (self.vocabulary_size - 1)

  def at(self, distance: int) -> 'InductionHeads':
    """Another length."""
    return dataclasses.replace(self, length=distance)

  def batch(self, split: str, index, batch_size: int) -> Batch:
    """Random tokens, a trigger anywhere with a token after it, a trigger at the end."""
    token_key, answer_key, place_key = jax.random.split(self.key(split, index), 3)
    shape, row = (batch_size, self.length), jnp.arange(batch_size)
    kinds = TRIGGER + 1, self.vocabulary_size
    tokens = jax.random.randint(token_key, shape, *kinds).at[:, -1].set(TRIGGER)
    answer = jax.random.randint(answer_key, row.shape, *kinds)
    place = jax.random.randint(place_key, row.shape, 0, self.length - 2)
    source = tokens.at[row, place].set(TRIGGER).at[row, place + 1].set(answer)
    empty = jnp.zeros(shape, jnp.int32)
    return Batch(source, empty.at[:, -1].set(answer), jnp.zeros(shape).at[:, -1].set(1.0))

  def oracle(self, source: jax.Array) -> jax.Array:
    """After the first trigger, the token that follows it."""
    place = jnp.argmax(source == TRIGGER, 1, keepdims=True)
    answer = jnp.take_along_axis(source, place + 1, 1)
    return certain(jnp.broadcast_to(answer, source.shape), self.outputs.size)

  def baseline(self, source: jax.Array) -> jax.Array:
    """Any token but the trigger, all equally likely."""
    possible = jnp.arange(self.outputs.size) != TRIGGER
    return jnp.broadcast_to(uniform(possible), (*source.shape, self.outputs.size))
