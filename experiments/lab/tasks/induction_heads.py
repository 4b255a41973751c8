"""The induction heads task, in which a model recalls the token after a special trigger token.

A trigger token occurs once among random tokens and again at the end of the sequence, where the
target is the token that followed its first occurrence. Two attention layers solve the task with a
previous-token head and an induction head that attends to the match. A recurrent layer must detect
the trigger and store the next token.

Olsson et al. 2022, "In-context learning and induction heads"; Fu et al. 2023, "Hungry hungry
hippos", for the task; Gu and Dao 2023, "Mamba: Linear-time sequence modeling with selective state
spaces", for lengths beyond training.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from experiments.lab.tasks.task import Batch, Space, Task, one_hot_logits, uniform_logits

TRIGGER = 0


@dataclasses.dataclass(frozen=True)
class InductionHeads(Task):
  """Prediction of the token after the first trigger token, scored at the second trigger.

  The trigger is token 0, and its second occurrence is the last token. Two examples (`.` has no
  weight):

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
        f'length={self.length}: induction_heads needs at least 3 tokens, two triggers and a target'
      )
    if self.vocabulary_size < 3:
      raise ValueError(
        f'vocabulary_size={self.vocabulary_size}: induction_heads needs at least 3 tokens,'
        f' a trigger and two targets'
      )

  @property
  def input_space(self) -> Space:
    """The trigger is token 0."""
    return Space('tokens', self.vocabulary_size)

  @property
  def dependency_distance(self) -> int:
    """The sequence length, an upper bound on the distance between the two trigger tokens."""
    return self.length

  @property
  def chance_level(self) -> float:
    """The accuracy of a uniform random prediction among all tokens except the trigger."""
    return 1 / (self.vocabulary_size - 1)

  @property
  def num_scored_positions(self) -> int:
    """One, the second trigger."""
    return 1

  def with_dependency_distance(self, distance: int) -> 'InductionHeads':
    return dataclasses.replace(self, length=distance)

  def batch(self, split: str, index, batch_size: int) -> Batch:
    """Random tokens with one trigger at a random position and a second trigger at the end."""
    token_key, answer_key, position_key = jax.random.split(self.batch_key(split, index), 3)
    shape, row = (batch_size, self.length), jnp.arange(batch_size)
    token_range = TRIGGER + 1, self.vocabulary_size
    tokens = jax.random.randint(token_key, shape, *token_range).at[:, -1].set(TRIGGER)
    answer = jax.random.randint(answer_key, row.shape, *token_range)
    position = jax.random.randint(position_key, row.shape, 0, self.length - 2)
    source = tokens.at[row, position].set(TRIGGER).at[row, position + 1].set(answer)
    empty = jnp.zeros(shape, jnp.int32)
    return Batch(source, empty.at[:, -1].set(answer), jnp.zeros(shape).at[:, -1].set(1.0))

  def oracle_outputs(self, source: jax.Array) -> jax.Array:
    """Logits that predict, at every position, the token after the first trigger."""
    position = jnp.argmax(source == TRIGGER, 1, keepdims=True)
    answer = jnp.take_along_axis(source, position + 1, 1)
    return one_hot_logits(jnp.broadcast_to(answer, source.shape), self.output_space.size)

  def baseline_outputs(self, source: jax.Array) -> jax.Array:
    """Logits of the uniform distribution over all tokens except the trigger."""
    allowed = jnp.arange(self.output_space.size) != TRIGGER
    return jnp.broadcast_to(uniform_logits(allowed), (*source.shape, self.output_space.size))
