"""Sequence transduction, in which a model generates a target sequence from a source sequence.

Source and target are tokens of one vocabulary, whose first three tokens are reserved:

  PAD    padding of a batch, which is masked     START  the first decoder input of every target
  END    the last token of every source and target

An encoder receives the source, a decoder receives START, y_1, ..., y_{T-1} and predicts y_1, ...,
y_T. If every argmax under teacher forcing equals the target, then greedy decoding generates exactly
this target. The metric, exact match, therefore needs no decoding.

Sutskever et al. 2014, "Sequence to sequence learning with neural networks", section 2.
"""

import abc
from typing import ClassVar

import jax
import jax.numpy as jnp

from experiments.lab.corpora.reserved import PAD, START
from experiments.lab.tasks.task import Batch, Metric, Space, Task


def shift_right(target: jax.Array) -> jax.Array:
  """The decoder inputs, which are START followed by targets [B, T] without their last token."""
  return jnp.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=START)


class Transduction(Task):
  """The base class of tasks with separate source [B, S] and target [B, T] sequences.

  Source positions are valid where `source != PAD`.
  """

  metric: ClassVar[Metric] = Metric('exact match', perfect=1.0)
  unknown_token: ClassVar[int | None] = None  # token of characters outside of the vocabulary
  model_kind: ClassVar[str] = 'translator'

  @property
  @abc.abstractmethod
  def vocabulary_size(self) -> int:
    """The size of the vocabulary shared by sources and targets, including reserved tokens."""

  @property
  def input_space(self) -> Space:
    """The tokens of the vocabulary."""
    return Space('tokens', self.vocabulary_size)

  @property
  @abc.abstractmethod
  def source_length(self) -> int:
    """The maximum number of tokens S in a source sequence, including END."""

  @property
  @abc.abstractmethod
  def target_length(self) -> int:
    """The maximum number of tokens T in a target sequence, including END."""

  @abc.abstractmethod
  def detokenize(self, tokens) -> str:
    """The text of one row of tokens up to its first END, computed on the host."""

  @abc.abstractmethod
  def tokenize(self, text: str) -> list[int]:
    """The tokens of a source text, including END.

    Raises:
      ValueError: if the text is not a source of this task.

    """

  @abc.abstractmethod
  def sentence_pairs_of_test_batch(self, index: int, batch_size: int) -> list[tuple[str, str]]:
    """The original source and target texts of a test batch, excluding padding rows.

    Generated text is scored against these texts. Detokenised targets would not serve as references,
    because a vocabulary may lose characters.
    """

  def count_excluded_test_pairs(self, num_batches: int, batch_size: int) -> dict[str, int]:
    """The number of test pairs excluded from the evaluation, by reason, such as their length.

    The evaluation uses the first `num_batches` test batches. The result is empty if test batches
    are sampled from all pairs.
    """
    del num_batches, batch_size
    return {}

  def model_arguments(self, batch: Batch) -> tuple[tuple, dict]:
    """The source, the decoder inputs and the mask of valid source positions."""
    return (batch.source, shift_right(batch.target)), {'mask': batch.source != PAD}

  def sum_metric(self, values: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The number of exact matches, and the number of targets, not counting padding rows.

    No output matches a target with an unknown token, because the original text is not recoverable.
    """
    wrong = values < 1
    if self.unknown_token is not None:
      wrong |= batch.target == self.unknown_token
    wrong &= batch.weight > 0
    counted = jnp.any(batch.weight > 0, 1)
    return jnp.sum(counted & ~jnp.any(wrong, 1), dtype=jnp.float32), jnp.sum(
      counted, dtype=jnp.float32
    )

  def make_batch(self, source: jax.Array, target: jax.Array) -> Batch:
    """A batch of sources [B, S] and targets [B, T], with weight 1 up to the END of each target."""
    return Batch(source, target, (target != PAD).astype(jnp.float32))
