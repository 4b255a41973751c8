"""The task interface, which defines batches, a loss, a metric, an oracle and a baseline.

A task is an immutable record of its settings. A batch is a pure function of the settings, the split
and the batch index. It is written in JAX, so that a compiled training step can generate its own
batches on the device, without the host.

Two reference models calibrate the metric. The *oracle* computes the target from the source. The
*baseline* ignores the source and is the best predictor that can do so. A metric is normalised
between the two,

  score = (metric - chance) / (perfect - chance),

which is 0 for the baseline and 1 for the oracle.
"""

import abc
import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from experiments.lab.corpora.reserved import SPLITS


class Space(NamedTuple):
  """The set of possible values at one position of a sequence.

  The value is a token below `size` (kind 'tokens') or a vector of `size` reals (kind 'reals').
  """

  kind: str  # 'tokens' or 'reals'
  size: int


class Batch(NamedTuple):
  """B training or test sequences with their targets and loss weights."""

  source: jax.Array  # int32 [B, S] tokens, or float32 [B, S, channels]
  target: jax.Array  # int32 [B, T] tokens, or float32 [B, T, channels]
  weight: jax.Array  # float32 [B, T]; 1 where loss and metric count a position, 0 elsewhere


class Metric(NamedTuple):
  """The name of an evaluation metric and its value for a perfect model.

  Comparing `perfect` with `Task.chance_level` tells whether higher or lower values are better.
  """

  name: str
  perfect: float


ACCURACY = Metric('accuracy', perfect=1.0)


LOGIT_GAP = 100.0  # a difference of logits at which the softmax is exactly 0 or 1 in float32


def one_hot_logits(tokens: jax.Array, vocabulary_size: int) -> jax.Array:
  """Logits [..., vocabulary_size] that give probability 1 to the given tokens [...]."""
  return LOGIT_GAP * jax.nn.one_hot(tokens, vocabulary_size)


def uniform_logits(allowed: jax.Array) -> jax.Array:
  """Logits of a uniform distribution over the allowed classes, from a mask [..., classes]."""
  return jnp.where(allowed, 0.0, -LOGIT_GAP)


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
  """The base class of all tasks.

  A subclass is a frozen dataclass in a file of its own, whose fields are the settings of the task.
  It sets the class attributes `family` and `axis`, implements the abstract members and is listed in
  TASKS of `experiments/lab/tasks/__init__.py`. The tests then verify it, with the two worked
  examples that its docstring must show. `laws.verify_task` verifies any task object.

  The shapes below are those of a model with one output per input position (`model_kind` 'layer'):
  sources are [B, T] tokens or [B, T, channels] reals, and outputs are [B, T, output_space.size].
  """

  family: ClassVar[str]  # name of the task in TASKS
  axis: ClassVar[str]  # label and unit of `dependency_distance` in tables and figures
  metric: ClassVar[Metric] = ACCURACY
  model_kind: ClassVar[str] = 'layer'  # models are 'layer' or 'translator' (encoder-decoder) specs
  solved: ClassVar[float | None] = None  # validation metric at which training may stop early
  streams: ClassVar[bool] = False  # True if the host reads batches, outside of compiled steps

  @property
  @abc.abstractmethod
  def input_space(self) -> Space:
    """The token vocabulary or the real-valued channels of a source sequence."""

  @property
  def output_space(self) -> Space:
    """The token vocabulary or the real-valued channels of a target, by default the input space."""
    return self.input_space

  @property
  @abc.abstractmethod
  def dependency_distance(self) -> int:
    """The distance between tokens that a model must relate, in the unit named by `axis`.

    Depending on the task, it is an exact distance or the greatest one that can occur.
    """

  @property
  @abc.abstractmethod
  def chance_level(self) -> float:
    """The expected metric of `baseline_outputs` on the test split."""

  @property
  def title(self) -> str:
    """The name of the task in tables and figures, without its `dependency_distance`."""
    return self.family.replace('_', ' ')

  @property
  def num_scored_positions(self) -> int | None:
    """The number of positions of weight 1 in each sequence, where the model's head is applied.

    None, the default, applies the head to all positions. A number saves most of a training step
    where few positions of a sequence are scored. It must be the same for all sequences.
    """
    return None

  @property
  def digest(self) -> str:
    """A hash of the stored data set, or '' if the task generates its batches."""
    return ''

  @abc.abstractmethod
  def with_dependency_distance(self, distance: int) -> 'Task':
    """A copy of this task with another distance between the tokens that a model must relate.

    Args:
      distance: its `dependency_distance`, at least the smallest that the task supports.

    Returns:
      A task of the same class and with the same input and output spaces, whose other settings are
      unchanged or scaled in proportion.

    Raises:
      ValueError: if there is no such task.

    """

  def extrapolation_task(self, dependency_distance: int) -> 'Task':
    """A copy of this task whose dependency distances all exceed the distance of this task.

    The greatest distance of the copy is `dependency_distance`. The copy measures length
    extrapolation. A model trained on `task` is tested on
    `a = task.extrapolation_task(64)` and then on `a.extrapolation_task(128)`. A task of one exact
    distance, or whose shorter examples cannot be excluded, returns the same task as
    `with_dependency_distance`.

    Args:
      dependency_distance: the distance of the result, greater than that of this task.

    Returns:
      A task of the same class and with the same input and output spaces.

    Raises:
      ValueError: if the distance is not greater, where the task excludes shorter examples.

    """
    return self.with_dependency_distance(dependency_distance)

  @abc.abstractmethod
  def batch(self, split: str, index, batch_size: int) -> Batch:
    """The batch with a given index, determined by the arguments and the task settings alone.

    Sequences of different splits or indices are drawn independently. `batch_key` gives the key.

    Args:
      split: 'train', 'validation' or 'test'.
      index: the number of the batch within the split, an int or a traced integer scalar.
      batch_size: the number of sequences B.

    Returns:
      A batch of B sequences. The oracle predicts the target wherever the weight is 1. Each row has
      such a position, except for rows that pad an incomplete batch of a streamed data set.

    Raises:
      ValueError: if the split is unknown.

    """

  @abc.abstractmethod
  def oracle_outputs(self, source: jax.Array) -> jax.Array:
    """The outputs of a perfect model, computed from the source alone.

    Args:
      source: [B, T] tokens or [B, T, channels] reals, as in a batch.

    Returns:
      Logits or predicted reals [B, T, output_space.size].

    Raises:
      TypeError: if no perfect model is known, as for the translation of natural text.

    """

  @abc.abstractmethod
  def baseline_outputs(self, source: jax.Array) -> jax.Array:
    """The outputs of the best predictor that ignores the content of the source.

    Args:
      source: [B, T] tokens or [B, T, channels] reals, of which only the shape is used.

    Returns:
      Logits or predicted reals [B, T, output_space.size], the same for every row.

    """

  def positions_for_attention_analysis(self, source: jax.Array) -> dict[str, jax.Array]:
    """Source positions for the analysis of attention, such as a pronoun and its antecedent.

    Args:
      source: [B, T] tokens.

    Returns:
      Positions [B] by name: 'prediction' is the position whose output is scored, and 'antecedent'
      is the position of the token that it depends on. Empty if the task has no such positions.

    """
    del source
    return {}

  def model_arguments(self, batch: Batch) -> tuple[tuple, dict]:
    """The positional and keyword arguments with which a model is called on a batch.

    Args:
      batch: the batch that the model is applied to.

    Returns:
      The positional arguments, here the source alone, and the keyword arguments.

    """
    return (batch.source,), {}

  def loss(self, outputs: jax.Array, batch: Batch, label_smoothing: float = 0.0) -> jax.Array:
    """The training loss at each position, which is cross-entropy or squared error.

    Label smoothing e replaces the one-hot target by 1 - e on the target plus e spread evenly over
    all tokens (Szegedy et al. 2016, section 7).

    Args:
      outputs: logits [B, T, tokens], or predictions [B, T, channels] where targets are reals.
      batch: the batch that the outputs belong to, whose weights are not applied.
      label_smoothing: the probability e, from 0 to below 1, which is ignored for reals.

    Returns:
      Losses [B, T], in nats for tokens and summed over the channels for reals.

    """
    if self.output_space.kind == 'reals':
      return jnp.sum(jnp.square(outputs - batch.target), -1)
    dtype = jnp.promote_types(outputs.dtype, jnp.float32)
    log_probability = jax.nn.log_softmax(outputs.astype(dtype))
    loss = -jnp.take_along_axis(log_probability, batch.target[..., None], -1)[..., 0]
    if not label_smoothing:
      return loss
    return (1 - label_smoothing) * loss - label_smoothing * jnp.mean(log_probability, -1)

  def metric_values(self, outputs: jax.Array, batch: Batch) -> jax.Array:
    """The metric at each position, by default 1 where the most likely token is the target.

    It depends on the output and the target of the position alone, like `loss`.

    Args:
      outputs: logits [B, T, tokens], or predictions [B, T, channels] where targets are reals.
      batch: the batch that the outputs belong to, whose weights are not applied.

    Returns:
      The metric [B, T], float32.

    """
    return (jnp.argmax(outputs, -1) == batch.target).astype(jnp.float32)

  def sum_metric(self, values: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The numerator and the denominator of the metric on one batch, to be summed over batches.

    Args:
      values: the metric at each position [B, T], from `metric_values`.
      batch: the batch that the values belong to.

    Returns:
      The sum of the metric over all scored items, and their number, both float32 scalars. By
      default the items are positions of weight 1.

    """
    return jnp.sum(batch.weight * values), jnp.sum(batch.weight)

  def metric_sums(self, outputs: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The numerator and the denominator of the metric on one batch, as `sum_metric` returns them.

    Args:
      outputs: logits [B, T, tokens], or predictions [B, T, channels] where targets are reals.
      batch: the batch that the outputs belong to.

    Returns:
      The sum of the metric over all scored items, and their number, both float32 scalars.

    """
    return self.sum_metric(self.metric_values(outputs, batch), batch)

  def normalize_metric(self, metric_value):
    """The normalised metric, which is 0 for the baseline and 1 for the oracle.

    Args:
      metric_value: a value of the metric, or an array of values.

    Returns:
      The normalised value, of the same shape.

    """
    return (metric_value - self.chance_level) / (self.metric.perfect - self.chance_level)

  def batch_key(self, split: str, index) -> jax.Array:
    """The random key of a batch, distinct for each split and index.

    Args:
      split: 'train', 'validation' or 'test'.
      index: the number of the batch within the split, an int or a traced integer scalar.

    Returns:
      A scalar JAX key.

    Raises:
      ValueError: if the split is unknown.

    """
    if split not in SPLITS:
      raise ValueError(f'unknown split {split!r}; the splits are {", ".join(SPLITS)}')
    root = jax.random.fold_in(jax.random.key(0), SPLITS.index(split))
    return jax.random.fold_in(root, index)
