"""Copy memory, in which a model reproduces the first symbols of a sequence after a delay.

A source has N symbols, delay - 1 blanks, a delimiter and N further steps, at which the symbols are
to be reproduced. Symbol i is the input at step i and the target at step delay + N + i, so that

  distance = delay + N

for every symbol, in both published variants. A layer whose receptive field has `distance` tokens,
including the current token, does not contain the required symbol and scores chance exactly. A
model without memory predicts the blanks and one of eight symbols uniformly. Its cross-entropy,
averaged over all delay + 2N positions, is the published baseline N ln 8 / (delay + 2N).

Hochreiter and Schmidhuber 1997; Arjovsky, Shah and Bengio 2016, "Unitary evolution recurrent neural
networks"; Bai, Kolter and Koltun 2018, "An empirical evaluation of generic convolutional and
recurrent networks for sequence modeling".
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from experiments.lab.tasks.task import Batch, Space, Task, one_hot_logits, uniform_logits

BLANK, NUM_KINDS, DELIMITER = 0, 8, 9  # symbols are 1, ..., 8
NUM_CLASSES = {'arjovsky': 9, 'bai': 10}  # output classes; the delimiter is never a target


@dataclasses.dataclass(frozen=True)
class CopyMemory(Task):
  """Copy memory in its two published variants, which differ in the tokens after the blanks.

  Arjovsky et al. use one delimiter and then blanks. Bai et al. repeat the delimiter to the end, so
  that the input marks every output step. Results of the two are not comparable. Two examples:

    copy_memory(delay=4, variant='arjovsky', num_symbols=5)
      source  5 1 8 8 3 0 0 0 9 0 0 0 0 0
      target  0 0 0 0 0 0 0 0 0 5 1 8 8 3

    copy_memory(delay=4, variant='bai', num_symbols=5)
      source  2 2 7 1 4 0 0 0 9 9 9 9 9 9
      target  0 0 0 0 0 0 0 0 0 2 2 7 1 4

  The loss counts every position, as published. The accuracy counts only the reproduced symbols. Bai
  et al. encode the token number as one real channel. Here both variants use tokens, because symbols
  have no order that a real channel could represent.

  Published: 10 symbols. Arjovsky: delay 100, 200, 300, 500, batches of 20, RMSprop at 1e-3. Bai:
  delay 500, 1000, 2000, batches of 32, RMSprop at 5e-4.
  """

  delay: int = 100
  variant: str = 'arjovsky'
  num_symbols: int = 10

  family: ClassVar[str] = 'copy_memory'
  axis: ClassVar[str] = 'steps from symbol to reproduction'
  solved: ClassVar[float] = 0.99

  def __post_init__(self):
    if self.variant not in NUM_CLASSES:
      raise ValueError(
        f'variant={self.variant!r}: the variants of copy_memory are {", ".join(NUM_CLASSES)}'
      )
    if self.num_symbols < 1:
      raise ValueError(f'num_symbols={self.num_symbols}: copy_memory needs at least 1 symbol')
    if self.delay < 1:
      raise ValueError(
        f'delay={self.delay}: copy_memory needs a delay of at least 1,'
        f' which is a distance of at least {self.num_symbols + 1}'
      )

  @property
  def title(self) -> str:
    """The task name and the variant.

    Results of different variants are not comparable.
    """
    return f'copy memory ({self.variant.capitalize()})'

  @property
  def input_space(self) -> Space:
    """Token 0 is the blank, tokens 1 to 8 are symbols and token 9 is the delimiter."""
    return Space('tokens', 10)

  @property
  def output_space(self) -> Space:
    """The same tokens as in the input, but without the delimiter in the Arjovsky variant."""
    return Space('tokens', NUM_CLASSES[self.variant])

  @property
  def dependency_distance(self) -> int:
    """The number of steps from each symbol in the source to its reproduction in the target."""
    return self.delay + self.num_symbols

  @property
  def length(self) -> int:
    """The number of tokens in a sequence."""
    return self.delay + 2 * self.num_symbols

  @property
  def chance_level(self) -> float:
    """The accuracy of a uniform random prediction of the symbols."""
    return 1 / NUM_KINDS

  def with_dependency_distance(self, distance: int) -> 'CopyMemory':
    """A copy of this task with another delay and the same number of symbols."""
    return dataclasses.replace(self, delay=distance - self.num_symbols)

  def batch(self, split: str, index, batch_size: int) -> Batch:
    """Random symbols, blanks and delimiters, with loss weight 1 at all positions."""
    key, count = self.batch_key(split, index), self.num_symbols
    symbols = jax.random.randint(key, (batch_size, count), 1, 1 + NUM_KINDS)
    blank = jnp.full((batch_size, self.dependency_distance), BLANK)
    last = DELIMITER if self.variant == 'bai' else BLANK
    suffix = jnp.full((batch_size, count + 1), last).at[:, 0].set(DELIMITER)
    source = jnp.concatenate([symbols, blank[:, : self.delay - 1], suffix], 1)
    target = jnp.concatenate([blank, symbols], 1)
    return Batch(source, target, jnp.ones(target.shape))

  def oracle_outputs(self, source: jax.Array) -> jax.Array:
    """Logits that predict blanks and then the first symbols of the source."""
    symbols = source[:, : self.num_symbols]
    blank = jnp.full_like(source[:, self.num_symbols :], BLANK)
    return one_hot_logits(jnp.concatenate([blank, symbols], 1), self.output_space.size)

  def baseline_outputs(self, source: jax.Array) -> jax.Array:
    """Logits that predict blanks and then give equal probability to the eight symbols."""
    token = jnp.arange(self.output_space.size)[None, :]
    is_symbol = (token >= 1) & (token <= NUM_KINDS)
    is_recall = jnp.arange(self.length) >= self.dependency_distance
    allowed = jnp.where(is_recall[:, None], is_symbol, token == BLANK)
    return jnp.broadcast_to(uniform_logits(allowed), (*source.shape, self.output_space.size))

  def sum_metric(self, values: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The number of correctly reproduced symbols, and the number of symbols to reproduce."""
    recalled = jnp.arange(self.length) >= self.dependency_distance
    return super().sum_metric(values, batch._replace(weight=batch.weight * recalled[None]))
