"""Flip-flop language modelling, in which a model stores one bit across many irrelevant tokens.

A sequence alternates between instructions and bits. The bit after write (w) or ignore (i) is
random. The bit after read (r) equals the bit of the last write:

  w 0 i 1 i 1 r 0 w 1 r 1

Instructions are independent, with probability p for i and (1 - p) / 2 for each of w and r, except
that the first is w and the last is r. Any recurrent network can store one bit. Attention, which
must retrieve the last w among distractors, makes sporadic errors, most of them where writes are
rarer (p = 0.98) or more frequent (p = 0.1) than in training.

Liu, Ash, Goel, Krishnamurthy and Zhang 2023, "Exposing attention glitches with flip-flop language
modeling".
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from experiments.lab.tasks.task import Batch, Space, Task, one_hot_logits, uniform_logits

WRITE, READ, IGNORE = 2, 3, 4  # bits are 0 and 1


def last_written_bits(source: jax.Array) -> jax.Array:
  """The bit [B, T/2] that was last written before or at each instruction of sources [B, T].

  At a write instruction, this is the bit that the instruction writes.
  """
  instructions, bits = source[:, ::2], source[:, 1::2]
  positions = jnp.arange(bits.shape[1])[None, :]
  latest = jax.lax.cummax(jnp.where(instructions == WRITE, positions, 0), axis=1)
  return jnp.take_along_axis(bits, latest, 1)


@dataclasses.dataclass(frozen=True)
class FlipFlop(Task):
  """Prediction of the last written bit at every read instruction.

  Tokens are the bits 0 and 1, write (2), read (3) and ignore (4). The target of a read is the next
  token, and all other positions have weight 0. Two examples (`.` has no weight):

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
  solved: ClassVar[float] = 0.9999  # the task measures rare errors

  def __post_init__(self):
    if self.length < 4 or self.length % 2:
      raise ValueError(f'length={self.length}: flip_flop needs an even length of at least 4')
    if not 0 <= self.ignore <= 1:
      raise ValueError(f'ignore={self.ignore}: flip_flop needs a probability from 0 to 1')

  @property
  def title(self) -> str:
    return f'flip-flop (ignore probability {self.ignore:g})'

  @property
  def input_space(self) -> Space:
    """The two bits and the three instructions."""
    return Space('tokens', 5)

  @property
  def dependency_distance(self) -> int:
    """The sequence length, an upper bound on the distance between a read and the last write."""
    return self.length

  @property
  def chance_level(self) -> float:
    """The accuracy of a uniform random prediction of the bits."""
    return 1 / 2

  def with_dependency_distance(self, distance: int) -> 'FlipFlop':
    return dataclasses.replace(self, length=distance)

  def batch(self, split: str, index, batch_size: int) -> Batch:
    """Random instructions and bits, where the bit after a read equals the last written bit."""
    instruction_key, bit_key = jax.random.split(self.batch_key(split, index))
    shape = batch_size, self.length // 2
    draw = jax.random.uniform(instruction_key, shape)
    instructions = jnp.where(draw < (1 + self.ignore) / 2, WRITE, READ)
    instructions = jnp.where(draw < self.ignore, IGNORE, instructions)
    instructions = instructions.at[:, 0].set(WRITE).at[:, -1].set(READ)
    bits = jax.random.randint(bit_key, shape, 0, 2)
    answers = last_written_bits(self._interleave_arrays(instructions, bits))  # [B, T/2]
    reads = instructions == READ
    source = self._interleave_arrays(instructions, jnp.where(reads, answers, bits))
    target = self._interleave_arrays(jnp.where(reads, answers, 0), jnp.zeros_like(bits))
    weight = self._interleave_arrays(reads, jnp.zeros_like(reads)).astype(jnp.float32)
    return Batch(source, target, weight)

  def _interleave_arrays(self, instructions: jax.Array, bits: jax.Array) -> jax.Array:
    """Interleaves instructions [B, T/2] and bits [B, T/2] into sequences [B, T]."""
    return jnp.stack([instructions, bits], -1).reshape(-1, self.length)

  def oracle_outputs(self, source: jax.Array) -> jax.Array:
    """Logits that predict the last written bit at every position."""
    answers = last_written_bits(source)
    return one_hot_logits(self._interleave_arrays(answers, answers), self.output_space.size)

  def baseline_outputs(self, source: jax.Array) -> jax.Array:
    """Logits of the uniform distribution over the two bits."""
    allowed = jnp.arange(self.output_space.size) < WRITE
    return jnp.broadcast_to(uniform_logits(allowed), (*source.shape, self.output_space.size))
