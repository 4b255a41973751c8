"""Flip-flop language modelling: one bit is written, left alone for long, and read.

A sequence alternates between instructions and bits. After write (w) and ignore (i) the bit is free;
after read (r) it must be the one written last:

  w 0 i 1 i 1 r 0 w 1 r 1

Instructions are independent, i with probability p and w and r with (1 - p) / 2 each, but for the
first, which writes, and the last, which reads. Any recurrent network can hold one bit. Attention,
which looks for the last w among distractors, errs now and then: most where writes are rarer (p =
0.98) or more frequent (p = 0.1) than where it was trained.

Liu, Ash, Goel, Krishnamurthy and Zhang 2023, "Exposing attention glitches with flip-flop language
modeling".
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from experiments.lab.tasks.task import Batch, Space, Task, certain, uniform

WRITE, READ, IGNORE = 2, 3, 4  # bits are 0 and 1


def last_written(source: jax.Array) -> jax.Array:  # [B, T] -> [B, T/2]
  """For each instruction, the bit written last: its own, if it writes."""
  instructions, bits = source[:, ::2], source[:, 1::2]
  places = jnp.arange(bits.shape[1])[None, :]
  latest = jax.lax.cummax(jnp.where(instructions == WRITE, places, 0), axis=1)
  return jnp.take_along_axis(bits, latest, 1)


@dataclasses.dataclass(frozen=True)
class FlipFlop(Task):
  """At every read, say the bit that was written last.

  Tokens are the bits 0 and 1, write (2), read (3) and ignore (4); at a read stands the answer that
  the next token shows, and nothing else has weight. Two examples (`.` has no weight):

    flip_flop(length=24)
      source  2 1 4 0 4 0 3 1 4 0 4 1 2 0 4 1 4 1 4 0 4 1 3 0
      target  . . . . . . 1 . . . . . . . . . . . . . . . 0 .

    flip_flop(length=24, ignore=0.1)
      source  2 0 3 0 2 1 3 1 3 1 2 0 2 0 2 1 4 0 3 1 2 0 3 0
      target  . . 0 . . . 1 . 1 . . . . . . . . . 1 . . . 0 .

  Published: length 512, p = 0.8, tested at p = 0.8, 0.98 and 0.1; AdamW at 3e-4 with betas (0.9,
  0.999) and weight decay 0.1, 50 steps of warm-up, linear decay, batches of 16. A Transformer of 19
  million parameters has rare errors at 0.98 and 0.1 after 10,000 steps; an LSTM of 128 units has
  none after 500.
  """

  length: int = 512
  ignore: float = 0.8

  family: ClassVar[str] = 'flip_flop'
  axis: ClassVar[str] = 'length'
  solved: ClassVar[float] = 0.9999  # what is measured are rare errors

  def __post_init__(self):
    if self.length < 4 or self.length % 2:
      raise ValueError(f'length={self.length}: flip_flop needs an even length of at least 4')
    if not 0 <= self.ignore <= 1:
      raise ValueError(f'ignore={self.ignore}: flip_flop takes a probability from 0 to 1')

  @property
  def title(self) -> str:
    """Names the distribution."""
    return f'flip-flop ({self.ignore:g} ignored)'

  @property
  def inputs(self) -> Space:
    """Bits and instructions."""
    return Space('tokens', 5)

  @property
  def distance(self) -> int:
    """The length: the last read can be almost as far as that from the last write."""
    return self.length

  @property
  def chance(self) -> float:
    """One bit out of two."""
    return 1 / 2

  def at(self, distance: int) -> 'FlipFlop':
    """Another length."""
    return dataclasses.replace(self, length=distance)

  def batch(self, split: str, index, batch_size: int) -> Batch:
    """Instructions and bits, the bits that are read corrected."""
    instruction_key, bit_key = jax.random.split(self.key(split, index))
    shape = batch_size, self.length // 2
    draw = jax.random.uniform(instruction_key, shape)
    instructions = jnp.where(draw < (1 + self.ignore) / 2, WRITE, READ)
    instructions = jnp.where(draw < self.ignore, IGNORE, instructions)
    instructions = instructions.at[:, 0].set(WRITE).at[:, -1].set(READ)
    bits = jax.random.randint(bit_key, shape, 0, 2)
    answers = last_written(self._woven(instructions, bits))
    reads = instructions == READ
    source = self._woven(instructions, jnp.where(reads, answers, bits))
    target = self._woven(jnp.where(reads, answers, 0), jnp.zeros_like(bits))
    weight = self._woven(reads, jnp.zeros_like(reads)).astype(jnp.float32)
    return Batch(source, target, weight)

  def _woven(self, instructions: jax.Array, bits: jax.Array) -> jax.Array:  # 2 [B, T/2] -> [B, T]
    """What belongs to instructions and to bits, in turn."""
    return jnp.stack([instructions, bits], -1).reshape(-1, self.length)

  def oracle(self, source: jax.Array) -> jax.Array:
    """At each instruction, the bit that was written last."""
    answers = last_written(source)
    return certain(self._woven(answers, answers), self.outputs.size)

  def baseline(self, source: jax.Array) -> jax.Array:
    """Either bit."""
    possible = jnp.arange(self.outputs.size) < WRITE
    return jnp.broadcast_to(uniform(possible), (*source.shape, self.outputs.size))
