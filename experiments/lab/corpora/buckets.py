"""Which examples stand in which batch, for sequences of many lengths: alike in length, by tokens.

An example of length n belongs to the bucket of the least edge >= n. A batch has the examples of one
bucket, and as many rows as make up about `batch_tokens` tokens at the bucket's mean length: every
batch of a bucket has one shape, and there is one program to compile for each.

The edges are those that pad the least. With c(n) examples of up to n tokens, the tokens of all rows
under edges e_1 < ... < e_k are the sum of (c(e_i) - c(e_{i-1})) e_i, least by dynamic programming:

  least_k(e) = min over d < e of least_{k-1}(d) + (c(e) - c(d)) e

An epoch is a plan, a pure function of its key: examples shuffled, dealt to buckets, cut into
batches, the batches shuffled. Each example is in one batch of it.

Vaswani et al. 2017, section 5.1: "sentence pairs were batched together by approximate sequence
length"; each batch had about 25000 source and 25000 target tokens.
"""

import functools
from typing import NamedTuple

import numpy as np

MULTIPLE = 8  # edges are multiples of it, as matrix units like them
NUMBER = 6  # programs that one is willing to compile


class Shape(NamedTuple):
  """Of a bucket's batches."""

  rows: int
  tokens: int  # of the source and of the target, each


class Plan(NamedTuple):
  """One epoch."""

  order: np.ndarray  # [examples] bucket after bucket
  cuts: np.ndarray  # [batches, 3] each batch's bucket, and where in `order` it starts and stops


def least_padded(lengths: np.ndarray, number: int = NUMBER) -> tuple[int, ...]:
  """The edges, at most `number` of them, under which examples [N] of some lengths pad the least."""
  cells = -(-np.asarray(lengths) // MULTIPLE)
  edge = np.arange(cells.max() + 1)
  below = np.cumsum(np.bincount(cells))  # examples of at most so many cells
  cost, paths = below * edge, [(int(e),) for e in edge]
  between = (below[None] - below[:, None]) * edge[None]  # [edge before, edge]
  between = np.where(edge[:, None] <= edge[None], between, np.iinfo(np.int64).max // 2)
  for _ in range(number - 1):
    total = cost[:, None] + between
    before = np.argmin(total, 0)
    cost = np.min(total, 0)
    paths = [paths[before[e]] + (int(e),) for e in edge]
  return tuple(sorted({MULTIPLE * e for e in paths[-1] if e}))


def shapes_of(lengths: np.ndarray, batch_tokens: int, batch_size: int) -> tuple[Shape, ...]:
  """The shapes of batches of examples [N] of some lengths, each of at least one of them.

  Args:
    lengths: tokens of each example.
    batch_tokens: about how many tokens a batch has; 0: as many as are in `batch_size` rows.
    batch_size: rows of a batch where tokens do not count.

  """
  edges = np.array(least_padded(lengths))
  bucket = np.searchsorted(edges, lengths)
  means = np.bincount(bucket, weights=lengths) / np.bincount(bucket)
  rows = (max(1, round(batch_tokens / mean)) if batch_tokens else batch_size for mean in means)
  return tuple(Shape(*shape) for shape in zip(rows, map(int, edges), strict=True))


class Buckets:
  """The batches of examples of given lengths, epoch after epoch."""

  def __init__(self, lengths: np.ndarray, shapes: tuple[Shape, ...], seed: int):
    """Deals examples [N], none longer than the longest shape, to buckets; `seed` is the plans'."""
    self.shapes = shapes
    self.seed = seed
    self._bucket = np.searchsorted([shape.tokens for shape in shapes], lengths)  # [N]
    self._ends = np.cumsum(np.bincount(self._bucket, minlength=len(shapes)))
    self._plan = functools.lru_cache(2)(self._planned)
    self.count = len(self._plan(0).cuts)  # batches of an epoch, the same in each

  def batch(self, index: int) -> tuple[Shape, np.ndarray]:
    """The shape of batch number `index`, and which examples [at most its rows] it has."""
    epoch, place = divmod(int(index), self.count)
    order, cuts = self._plan(epoch)
    bucket, start, stop = cuts[place]
    return self.shapes[bucket], order[start:stop]

  def _planned(self, epoch: int) -> Plan:
    # The streams of NumPy's newer generators may change between its versions; this one's do not.
    random = np.random.RandomState([self.seed, epoch])
    order = random.permutation(len(self._bucket))
    order = order[np.argsort(self._bucket[order], kind='stable')]
    firsts = (0, *self._ends[:-1])
    cuts = [
      (bucket, start, min(start + shape.rows, end))
      for bucket, (shape, first, end) in enumerate(
        zip(self.shapes, firsts, self._ends, strict=True))
      for start in range(first, end, shape.rows)
    ]
    return Plan(order, random.permutation(np.array(cuts)))
