"""The adding problem, in which a model adds the two marked numbers of a sequence.

The input at step t is a value v[t] ~ U(0, 1) and a marker m[t] in {0, 1}. Exactly two markers are
1. The target at the last step is

  y = sum over t of m[t] v[t],

and the metric is the squared error. The baseline predicts 1, the mean of y, and its squared error
is the variance of the sum of two independent uniform numbers, 2 / 12 = 1/6.

Hochreiter and Schmidhuber 1997; Arjovsky, Shah and Bengio 2016, "Unitary evolution recurrent neural
networks"; Bai, Kolter and Koltun 2018, "An empirical evaluation of generic convolutional and
recurrent networks for sequence modeling".
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from experiments.lab.tasks import draws
from experiments.lab.tasks.task import Batch, Metric, Space, Task

VARIANTS = ('arjovsky', 'bai')


@dataclasses.dataclass(frozen=True)
class Adding(Task):
  """The adding problem in two published variants, which differ in the distribution of the markers.

  Arjovsky et al. mark one step in each half (of an odd length, the last step is never marked). Bai
  et al. mark any two steps. Two examples, in which a step is value/marker (`.` has no weight):

    adding(length=6, variant='arjovsky')
      source  0.5/0 0.25/1 0.125/0 0.75/0 1.0/0 0.5/1
      target  .     .      .       .      .     0.75

    adding(length=5, variant='bai')
      source  0.5/1 0.25/0 0.75/1 0.125/0 0.0/0
      target  .     .      .      .       1.25

  Published: Arjovsky: length 100, 200, 400, 750, batches of 20, RMSprop at 1e-3. Bai: length 200,
  400, 600, batches of 32, Adam at 4e-3 (2e-3 in the paper), 50,000 sequences for 10 epochs.
  """

  length: int = 200
  variant: str = 'arjovsky'

  family: ClassVar[str] = 'adding'
  axis: ClassVar[str] = 'length'
  metric: ClassVar[Metric] = Metric('mean squared error', perfect=0.0)
  solved: ClassVar[float] = 0.002

  def __post_init__(self):
    if self.variant not in VARIANTS:
      raise ValueError(
        f'variant={self.variant!r}: the variants of adding are {", ".join(VARIANTS)}'
      )
    if self.length < 2:
      raise ValueError(f'length={self.length}: adding needs at least 2 steps')

  @property
  def title(self) -> str:
    """The task name and the variant, such as `adding (Bai)`.

    Results of different variants are not comparable.
    """
    return f'adding ({self.variant.capitalize()})'

  @property
  def input_space(self) -> Space:
    """Two channels, the value and the marker."""
    return Space('reals', 2)

  @property
  def output_space(self) -> Space:
    """One channel, the sum."""
    return Space('reals', 1)

  @property
  def dependency_distance(self) -> int:
    """The sequence length, which is the maximum distance from a marked value to the last step."""
    return self.length

  @property
  def chance_level(self) -> float:
    """The mean squared error of the baseline, which is the variance of the target."""
    return 1 / 6

  @property
  def num_scored_positions(self) -> int:
    """One, the last position, where the target is the sum."""
    return 1

  def with_dependency_distance(self, distance: int) -> 'Adding':
    return dataclasses.replace(self, length=distance)

  def batch(self, split: str, index, batch_size: int) -> Batch:
    """Random sequences with two marked values each.

    The target at the last step is the sum of the two marked values.
    """
    value_key, marker_key = jax.random.split(self.batch_key(split, index))
    value = jax.random.uniform(value_key, (batch_size, self.length))
    marked = self._sample_marked_steps(marker_key, batch_size)
    marker = jnp.zeros(value.shape).at[jnp.arange(batch_size)[:, None], marked].set(1.0)
    zero = jnp.zeros(value.shape)
    target = zero.at[:, -1].set(jnp.sum(value * marker, 1))[..., None]
    return Batch(jnp.stack([value, marker], -1), target, zero.at[:, -1].set(1.0))

  def _sample_marked_steps(self, key: jax.Array, batch_size: int) -> jax.Array:  # [B, 2]
    if self.variant == 'bai':
      return draws.sample_distinct(key, batch_size, 2, self.length)
    half = self.length // 2
    return jax.random.randint(key, (batch_size, 2), 0, half) + jnp.array([[0, half]])

  def oracle_outputs(self, source: jax.Array) -> jax.Array:
    """Predicts the cumulative sum of the marked values, which is the target at the last step."""
    return jnp.cumsum(source[..., :1] * source[..., 1:], 1)

  def baseline_outputs(self, source: jax.Array) -> jax.Array:
    """Predicts the constant 1, which is the mean of the target."""
    return jnp.ones((*source.shape[:2], 1))

  def metric_values(self, outputs: jax.Array, batch: Batch) -> jax.Array:
    """The squared error at each position."""
    return self.loss(outputs, batch)
