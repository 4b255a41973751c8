"""Copy memory: repeat what you were told long ago.

N symbols to remember, delay - 1 blanks, a signal, then N steps in which to repeat the symbols.
Symbol i is read at step i and asked for at step delay + N + i, so

  distance = delay + N

for every symbol, in both published variants: a layer that sees `distance` tokens, the present one
included, sees none of the symbol that it must repeat, and scores chance exactly. Whoever remembers
nothing knows the blanks and guesses one symbol out of eight: its cross-entropy, averaged over all
delay + 2N positions, is the published baseline N ln 8 / (delay + 2N).

Hochreiter and Schmidhuber 1997; Arjovsky, Shah and Bengio 2016, "Unitary evolution recurrent neural
networks"; Bai, Kolter and Koltun 2018, "An empirical evaluation of generic convolutional and
recurrent networks for sequence modeling".
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from experiments.lab.tasks.task import Batch, Space, Task, certain, uniform

BLANK, NUM_KINDS, DELIMITER = 0, 8, 9  # symbols are 1, ..., 8
NUM_CLASSES = {'arjovsky': 9, 'bai': 10}  # answers offered; the delimiter is never one of them


@dataclasses.dataclass(frozen=True)
class CopyMemory(Task):
  """Copy memory in its two published variants, which differ after the blanks.

  Arjovsky et al. give one delimiter and then blanks; Bai et al. repeat the delimiter to the end, so
  that every step of the answer is announced. Do not compare numbers across the two. Two examples:

    copy_memory(delay=4, variant='arjovsky', num_symbols=5)
      source  5 1 8 8 3 0 0 0 9 0 0 0 0 0
      target  0 0 0 0 0 0 0 0 0 5 1 8 8 3

    copy_memory(delay=4, variant='bai', num_symbols=5)
      source  2 2 7 1 4 0 0 0 9 9 9 9 9 9
      target  0 0 0 0 0 0 0 0 0 2 2 7 1 4

  The loss counts every position, as published; the accuracy counts the recalled symbols alone. Bai
  et al. feed the token's number as one real channel. Here both variants feed tokens: symbols have
  no order, and a model should not be asked to undo one before it can start to remember.

  Published: 10 symbols. Arjovsky: delay 100, 200, 300, 500, batches of 20, RMSprop at 1e-3. Bai:
  delay 500, 1000, 2000, batches of 32, RMSprop at 5e-4.
  """

  delay: int = 100
  variant: str = 'arjovsky'
  num_symbols: int = 10

  family: ClassVar[str] = 'copy_memory'
  axis: ClassVar[str] = 'steps from symbol to recall'
  solved: ClassVar[float] = 0.99

  def __post_init__(self):
    if self.variant not in NUM_CLASSES:
      raise ValueError(f'variant={self.variant!r}: copy_memory knows {", ".join(NUM_CLASSES)}')
    if self.num_symbols < 1:
      raise ValueError(f'num_symbols={self.num_symbols}: copy_memory needs at least 1')
    if self.delay < 1:
      raise ValueError(
        f'delay={self.delay}: copy_memory needs a delay of at least 1,'
        f' which is a distance of at least {self.num_symbols + 1}'
      )

  @property
  def title(self) -> str:
    """Names the variant: numbers of the two do not compare."""
    return f'copy memory ({self.variant.capitalize()})'

  @property
  def inputs(self) -> Space:
    """Tokens: 0 is blank, 1 to 8 are symbols, 9 is the delimiter."""
    return Space('tokens', 10)

  @property
  def outputs(self) -> Space:
    """The same tokens, without the delimiter in Arjovsky's variant."""
    return Space('tokens', NUM_CLASSES[self.variant])

  @property
  def distance(self) -> int:
    """Steps from reading a symbol to answering it, the same for every symbol."""
    return self.delay + self.num_symbols

  @property
  def length(self) -> int:
    """Tokens in a sequence."""
    return self.delay + 2 * self.num_symbols

  @property
  def chance(self) -> float:
    """One symbol out of eight."""
    return 1 / NUM_KINDS

  def at(self, distance: int) -> 'CopyMemory':
    """Another delay, for the same number of symbols."""
    return dataclasses.replace(self, delay=distance - self.num_symbols)

  def batch(self, split: str, index, batch_size: int) -> Batch:
    """Symbols, blanks and signal; all positions count."""
    key, count = self.key(split, index), self.num_symbols
    symbols = jax.random.randint(key, (batch_size, count), 1, 1 + NUM_KINDS)
    blank = jnp.full((batch_size, self.distance), BLANK)
    tail = DELIMITER if self.variant == 'bai' else BLANK
    signal = jnp.full((batch_size, count + 1), tail).at[:, 0].set(DELIMITER)
    source = jnp.concatenate([symbols, blank[:, : self.delay - 1], signal], 1)
    target = jnp.concatenate([blank, symbols], 1)
    return Batch(source, target, jnp.ones(target.shape))

  def oracle(self, source: jax.Array) -> jax.Array:
    """Blanks, then the symbols that the source began with."""
    symbols = source[:, : self.num_symbols]
    blank = jnp.full_like(source[:, self.num_symbols :], BLANK)
    return certain(jnp.concatenate([blank, symbols], 1), self.outputs.size)

  def baseline(self, source: jax.Array) -> jax.Array:
    """Blanks, then any symbol: all eight equally likely."""
    token = jnp.arange(self.outputs.size)[None, :]
    recalls = jnp.arange(self.length) >= self.distance
    possible = jnp.where(recalls[:, None], (token >= 1) & (token <= NUM_KINDS), token == BLANK)
    return jnp.broadcast_to(uniform(possible), (*source.shape, self.outputs.size))

  def measure(self, outputs: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Accuracy over the recalled symbols alone."""
    recalled = jax.tree.map(lambda whole: whole[:, self.distance :], batch)
    return super().measure(outputs[:, self.distance :], recalled)
