"""Sequence transduction: the answer is a sequence of its own, made one token after another.

A source and a target are tokens of one vocabulary whose first three have a meaning of their own:

  PAD    fills a batch up and is never read     START  is what the first token is made from
  END    closes every source and every target

A model reads the source, then the target so far (START, y_1, ..., y_{T-1}), and answers y_1, ...,
y_T. With the true target as its past (teacher forcing) an answer whose likeliest token is right at
every place is exactly what greedy decoding writes: exact match, the metric, needs no decoding.

Sutskever et al. 2014, "Sequence to sequence learning with neural networks", section 2.
"""

import abc
from typing import ClassVar

import jax
import jax.numpy as jnp

from experiments.lab.corpora.reserved import PAD, START
from experiments.lab.tasks.task import Batch, Metric, Space, Task


def shifted(target: jax.Array) -> jax.Array:
  """What each token of target [B, T] is made from: START, then the target without its last."""
  return jnp.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=START)


class Transduction(Task):
  """A task whose answer is a sequence of its own; `source != PAD` says what is to be read."""

  metric: ClassVar[Metric] = Metric('exact match', perfect=1.0)
  unknown: ClassVar[int | None] = None  # the token of characters that a vocabulary does not know
  answered_by: ClassVar[str] = 'translator'

  @property
  @abc.abstractmethod
  def vocabulary_size(self) -> int:
    """Tokens of sources and targets, those with a meaning of their own included."""

  @property
  def inputs(self) -> Space:
    """Tokens."""
    return Space('tokens', self.vocabulary_size)

  @property
  @abc.abstractmethod
  def source_length(self) -> int:
    """S, room for the longest source, its END included."""

  @property
  @abc.abstractmethod
  def target_length(self) -> int:
    """T, room for the longest target, its END included."""

  @abc.abstractmethod
  def text(self, tokens) -> str:
    """The words that a row of tokens stands for, up to its END, on the host."""

  @abc.abstractmethod
  def test_sentences(self, index: int, batch_size: int) -> list[tuple[str, str]]:
    """Source and target of each row with weight of a test batch, exactly as the data have them.

    Answers in words are judged by these. The batch's own tokens would not do: a vocabulary loses
    what it does not know.
    """

  def left_out(self, batches: int, batch_size: int) -> dict[str, int]:
    """Reason -> how many pairs of the test split are in none of the first `batches` batches.

    Empty where test batches are drawn from all pairs.
    """
    del batches, batch_size
    return {}

  @abc.abstractmethod
  def tokens(self, text: str) -> list[int]:
    """The tokens of a source in words, closed by END; a ValueError for what is none."""

  def arguments(self, batch: Batch) -> tuple[tuple, dict]:
    """The source, the target's past, and what of the source is to be read."""
    return (batch.source, shifted(batch.target)), {'mask': batch.source != PAD}

  def measure(self, outputs: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """How many sequences are right in every token that counts, out of those that count.

    A target with an unknown token cannot be written, so that no answer to it is right.
    """
    wrong = jnp.argmax(outputs, -1) != batch.target
    if self.unknown is not None:
      wrong |= batch.target == self.unknown
    wrong &= batch.weight > 0
    counted = jnp.any(batch.weight > 0, 1)
    return jnp.sum(counted & ~jnp.any(wrong, 1), dtype=jnp.float32), jnp.sum(
      counted, dtype=jnp.float32
    )

  def sealed(self, source: jax.Array, target: jax.Array) -> Batch:
    """A batch of tokens [B, S] and [B, T]; all of a target up to its END counts."""
    return Batch(source, target, (target != PAD).astype(jnp.float32))
