"""Batches of examples of similar length, with about the same number of tokens in each batch.

An example of length n belongs to the bucket with the smallest boundary >= n. A batch consists of
examples of one bucket, with as many rows as give about `batch_tokens` tokens at the mean length of
the bucket. All batches of a bucket have one shape, so that one program per bucket is compiled.

The boundaries minimise padding. If c(n) examples have at most n tokens, the padded number of tokens
under boundaries e_1 < ... < e_k is the sum of (c(e_i) - c(e_{i-1})) e_i. Dynamic programming finds
its minimum:

  least_k(e) = min over d < e of least_{k-1}(d) + (c(e) - c(d)) e

The order of an epoch is a pure function of a seed and the number of the epoch. Examples are
shuffled, grouped by bucket and divided into batches, and the batches are shuffled. Each example is
in exactly one batch of an epoch.

The library grain is not used, because it does not group examples by length and its own shuffle
would change the order of the batches behind all stored results.

Vaswani et al. 2017, section 5.1: "sentence pairs were batched together by approximate sequence
length"; each batch had about 25000 source and 25000 target tokens.
"""

import functools
from typing import NamedTuple

import numpy as np

BOUNDARY_MULTIPLE = 8  # boundaries are multiples of 8, for which matrix units are efficient
MAX_BUCKETS = 6  # limits the number of programs to compile


class BatchShape(NamedTuple):
  """The number of rows and the number of tokens per row of a batch.

  All batches of a bucket have the same shape.
  """

  rows: int
  tokens: int  # per row, of the source and of the target each


class EpochPlan(NamedTuple):
  """The order of the examples and the batches of one epoch."""

  order: np.ndarray  # [examples] indices of examples, grouped by bucket
  cuts: np.ndarray  # [batches, 3] bucket of each batch, and its start and stop in `order`


def bucket_boundaries(lengths: np.ndarray, max_buckets: int = MAX_BUCKETS) -> tuple[int, ...]:
  """The maximum example length of each bucket, in ascending order, chosen to minimise padding."""
  units = -(-np.asarray(lengths) // BOUNDARY_MULTIPLE)
  boundary = np.arange(units.max() + 1)
  count = np.cumsum(np.bincount(units))  # examples of at most this many units
  cost, paths = count * boundary, [(int(e),) for e in boundary]
  step_cost = (count[None] - count[:, None]) * boundary[None]  # [previous boundary, boundary]
  impossible = boundary[:, None] > boundary[None]
  step_cost = np.where(impossible, np.iinfo(np.int64).max // 2, step_cost)
  for _ in range(max_buckets - 1):
    total = cost[:, None] + step_cost
    previous = np.argmin(total, 0)
    cost = np.min(total, 0)
    paths = [paths[previous[e]] + (int(e),) for e in boundary]
  return tuple(sorted({BOUNDARY_MULTIPLE * e for e in paths[-1] if e}))


def batch_shapes(
  lengths: np.ndarray, batch_tokens: int, batch_size: int
) -> tuple[BatchShape, ...]:
  """The batch shapes of all buckets, in ascending order of length.

  Args:
    lengths: [N] number of tokens of each example.
    batch_tokens: approximate number of tokens of a batch, without padding; 0 uses `batch_size`.
    batch_size: number of rows of a batch, used only if `batch_tokens` is 0.

  Returns:
    One shape for each bucket, of which each contains at least one example.

  """
  boundaries = np.array(bucket_boundaries(lengths))
  bucket = np.searchsorted(boundaries, lengths)
  means = np.bincount(bucket, weights=lengths) / np.bincount(bucket)
  rows = (max(1, round(batch_tokens / mean)) if batch_tokens else batch_size for mean in means)
  return tuple(BatchShape(*shape) for shape in zip(rows, map(int, boundaries), strict=True))


class Buckets:
  """Divides N examples into batches of similar length, and shuffles them in every epoch.

  Args:
    lengths: [N] number of tokens of each example, none greater than the longest shape.
    shapes: the shapes of batches, in ascending order of length.
    seed: the seed of the order, together with the number of the epoch.

  Attributes:
    count: the number of batches per epoch.

  """

  def __init__(self, lengths: np.ndarray, shapes: tuple[BatchShape, ...], seed: int):
    self.shapes = shapes
    self.seed = seed
    self._bucket = np.searchsorted([shape.tokens for shape in shapes], lengths)  # [N]
    self._ends = np.cumsum(np.bincount(self._bucket, minlength=len(shapes)))
    self._plan = functools.lru_cache(2)(self._plan_epoch)
    self.count = len(self._plan(0).cuts)

  def batch(self, index: int) -> tuple[BatchShape, np.ndarray]:
    """The shape of the batch at position `index`, and the indices of its examples."""
    epoch, position = divmod(int(index), self.count)
    order, cuts = self._plan(epoch)
    bucket, start, stop = cuts[position]
    return self.shapes[bucket], order[start:stop]

  def _plan_epoch(self, epoch: int) -> EpochPlan:
    # RandomState generates the same numbers in all NumPy versions, unlike newer generators.
    random = np.random.RandomState([self.seed, epoch])
    order = random.permutation(len(self._bucket))
    order = order[np.argsort(self._bucket[order], kind='stable')]
    starts = (0, *self._ends[:-1])
    cuts = [
      (bucket, start, min(start + shape.rows, end))
      for bucket, (shape, first, end) in enumerate(
        zip(self.shapes, starts, self._ends, strict=True))
      for start in range(first, end, shape.rows)
    ]
    return EpochPlan(order, random.permutation(np.array(cuts)))
