"""What is asked of a model: batches, the loss that trains it, the metric that judges it.

A task is a frozen record of settings. Its batches are a pure function of (settings, split, index),
made in JAX so that they can be made inside a compiled step, on the device, without the host.

Two answers come with every task, and calibrate it:
the *oracle*, which computes the target from the source, and the *guess*, which ignores the source
and gives the best answer that one can give without looking. A metric is read between the two:
score = (metric - chance) / (perfect - chance), 0 for the guess, 1 for the oracle.
"""

import abc
import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from experiments.lab.corpora.reserved import SPLITS


class Space(NamedTuple):
  """What stands at one position: a token out of `size`, or a vector of `size` reals."""

  kind: str  # 'tokens' or 'reals'
  size: int


class Batch(NamedTuple):
  """Sequences to train or test on."""

  source: jax.Array  # [B, S] tokens, or [B, S, channels]
  target: jax.Array  # [B, T] tokens, or [B, T, channels]
  weight: jax.Array  # [B, T] 1 where the loss counts, 0 elsewhere


class Metric(NamedTuple):
  """The number that judges an answer; the oracle's value of it tells which way is better."""

  name: str
  perfect: float


ACCURACY = Metric('accuracy', perfect=1.0)


SURE = 100.0  # a lead in logits so large that the softmax is exactly 0 or 1 in float32


def certain(tokens: jax.Array, size: int) -> jax.Array:
  """Logits of an answer that leaves no doubt, out of `size` tokens."""
  return SURE * jax.nn.one_hot(tokens, size)


def uniform(possible: jax.Array) -> jax.Array:
  """Logits of an answer that takes what is possible for equally likely, and the rest for not."""
  return jnp.where(possible, 0.0, -SURE)


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
  """The interface of every task. Subclasses are frozen dataclasses too, one file each."""

  family: ClassVar[str]  # its name in TASKS
  axis: ClassVar[str]  # what `distance` counts, for tables and figures
  metric: ClassVar[Metric] = ACCURACY
  answered_by: ClassVar[str] = 'layer'  # what a model of it is made of: a kind of spec
  solved: ClassVar[float | None] = None  # a validation metric at which training may stop
  streams: ClassVar[bool] = False  # batches are read on the host, not made in a compiled step

  @property
  @abc.abstractmethod
  def inputs(self) -> Space:
    """What the model reads."""

  @property
  def outputs(self) -> Space:
    """What the model answers: the tokens that it reads, unless the task says otherwise."""
    return self.inputs

  @property
  @abc.abstractmethod
  def distance(self) -> int:
    """How far apart cause and effect are, in units of `axis`."""

  @property
  @abc.abstractmethod
  def chance(self) -> float:
    """The metric's expected value for `guess`."""

  @property
  def title(self) -> str:
    """The question in words, without its distance."""
    return self.family.replace('_', ' ')

  @property
  def digest(self) -> str:
    """Names the data that batches are cut from; '' where they are generated."""
    return ''

  @abc.abstractmethod
  def at(self, distance: int) -> 'Task':
    """The same task with its distance changed and its proportions kept."""

  def beyond(self, distance: int) -> 'Task':
    """The same question at a greater distance, asking only what lies farther than this task asks.

    It is what a model is tested on at lengths beyond training: train on `task`, test on
    `task.beyond(64)`, then on `task.beyond(64).beyond(128)`. Spaces stay the same.
    """
    return self.at(distance)

  @abc.abstractmethod
  def batch(self, split: str, index, batch_size: int) -> Batch:
    """Batch number `index` (an integer, may be traced) of a split: same arguments, same batch."""

  @abc.abstractmethod
  def oracle(self, source: jax.Array) -> jax.Array:
    """Outputs of a model that solves the task, computed from the source alone."""

  @abc.abstractmethod
  def baseline(self, source: jax.Array) -> jax.Array:
    """Outputs of the best model that does not look at the source's content."""

  def places(self, source: jax.Array) -> dict[str, jax.Array]:
    """Where in source [B, S] stands what an answer hangs on, each [B]; empty: nowhere special.

    `question` is the position that is answered, `antecedent` the one that it is about.
    """
    del source
    return {}

  def arguments(self, batch: Batch) -> tuple[tuple, dict]:
    """What a model is called with, by place and by name: the source."""
    return (batch.source,), {}

  def loss(self, outputs: jax.Array, batch: Batch, smoothing: float = 0.0) -> jax.Array:
    """Training loss at each position [B, T]: cross-entropy in nats, or squared error.

    With smoothing e, cross-entropy to 1 - e on the target and e on all tokens alike (Szegedy et al.
    2016, section 7); reals have none.
    """
    if self.outputs.kind == 'reals':
      return jnp.sum(jnp.square(outputs - batch.target), -1)
    log_probability = jax.nn.log_softmax(outputs.astype(jnp.float32))
    loss = -jnp.take_along_axis(log_probability, batch.target[..., None], -1)[..., 0]
    return (1 - smoothing) * loss - smoothing * jnp.mean(log_probability, -1) if smoothing else loss

  def measure(self, outputs: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """The metric as (sum over what was judged, how many were judged): batches then add up."""
    correct = jnp.argmax(outputs, -1) == batch.target  # [B, T]
    return jnp.sum(batch.weight * correct), jnp.sum(batch.weight)

  def score(self, metric):
    """A metric's value on the common scale: 0 for the guess, 1 for the oracle."""
    return (metric - self.chance) / (self.metric.perfect - self.chance)

  def key(self, split: str, index) -> jax.Array:
    """The random key of a batch; the splits' keys are disjoint."""
    if split not in SPLITS:
      raise ValueError(f'split {split!r} is none of {", ".join(SPLITS)}')
    root = jax.random.fold_in(jax.random.key(0), SPLITS.index(split))
    return jax.random.fold_in(root, index)
