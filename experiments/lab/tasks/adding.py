"""The adding problem: the sum of two numbers that were marked somewhere along the way.

Step t shows a value v[t] ~ U(0, 1) and a marker m[t] in {0, 1}, of which exactly two are 1. The
answer, at the last step, is

  y = sum over t of m[t] v[t],

and it is judged by squared error. Whoever ignores the input answers 1, the mean, and errs by the
variance of two independent uniform numbers, 2 / 12 = 1/6.

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
  """The adding problem with the markers placed as one of two papers does.

  Arjovsky et al. mark one step in each half (of an odd length, the last step is never marked); Bai
  et al. mark any two steps. Two examples, a step being value/marker (`.` has no weight):

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
      raise ValueError(f'variant={self.variant!r}: adding knows {", ".join(VARIANTS)}')
    if self.length < 2:
      raise ValueError(f'length={self.length}: adding needs at least 2 steps to mark')

  @property
  def title(self) -> str:
    """Names the variant: numbers of the two do not compare."""
    return f'adding ({self.variant.capitalize()})'

  @property
  def inputs(self) -> Space:
    """Two channels: value and marker."""
    return Space('reals', 2)

  @property
  def outputs(self) -> Space:
    """One channel: the sum."""
    return Space('reals', 1)

  @property
  def distance(self) -> int:
    """The length: a marker can be almost as far as that from the answer."""
    return self.length

  @property
  def chance(self) -> float:
    """The variance of the sum of two independent U(0, 1)."""
    return 1 / 6

  def at(self, distance: int) -> 'Adding':
    """Another length."""
    return dataclasses.replace(self, length=distance)

  def batch(self, split: str, index, batch_size: int) -> Batch:
    """Uniform values, two markers, and their sum at the last step."""
    value_key, marker_key = jax.random.split(self.key(split, index))
    value = jax.random.uniform(value_key, (batch_size, self.length))
    marked = self._marked(marker_key, batch_size)
    marker = jnp.zeros(value.shape).at[jnp.arange(batch_size)[:, None], marked].set(1.0)
    zero = jnp.zeros(value.shape)
    target = zero.at[:, -1].set(jnp.sum(value * marker, 1))[..., None]
    return Batch(jnp.stack([value, marker], -1), target, zero.at[:, -1].set(1.0))

  def _marked(self, key: jax.Array, batch_size: int) -> jax.Array:  # [B, 2]
    """Two different steps a row."""
    if self.variant == 'bai':
      return draws.distinct(key, batch_size, 2, self.length)
    half = self.length // 2
    return jax.random.randint(key, (batch_size, 2), 0, half) + jnp.array([[0, half]])

  def oracle(self, source: jax.Array) -> jax.Array:
    """The sum of what was marked so far; at the last step, the answer."""
    return jnp.cumsum(source[..., :1] * source[..., 1:], 1)

  def baseline(self, source: jax.Array) -> jax.Array:
    """1, the mean of the answer."""
    return jnp.ones((*source.shape[:2], 1))

  def measure(self, outputs: jax.Array, batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Squared error where it counts."""
    return jnp.sum(batch.weight * self.loss(outputs, batch)), jnp.sum(batch.weight)
