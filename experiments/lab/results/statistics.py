"""How sure a number is: an estimate never travels without its interval and its count.

Scores over seeds get Student's t interval, mean ± t(n - 1) s / sqrt(n): seeds are few and roughly
normal. Times get medians and the percentile bootstrap: they are many, skewed and have outliers.

A NaN is never left out. It is a seed that diverged, and dropping it would flatter what is unstable;
so one value that is not finite makes the estimate and its bounds NaN.
One value alone has no interval: its bounds are NaN, and it is printed as a number only.

Student (1908), doi:10.2307/2331554; Efron (1979), doi:10.1214/aos/1176344552.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from experiments.lab import optional

np = optional.later('numpy')
special, stats = optional.later('scipy.special'), optional.later('scipy.stats')
CONFIDENCE = 0.95
_RESAMPLES = 4999
_SEED = 20170612  # fixed: the same records give the same report


class Interval(NamedTuple):
  """An estimate (a mean unless said otherwise), its bounds, and how many values it rests on."""

  mean: float
  low: float
  high: float
  count: int

  @classmethod
  def bare(cls, estimate: float, count: int = 1) -> 'Interval':
    """Estimate without bounds."""
    return cls(estimate, math.nan, math.nan, count)

  @property
  def known(self) -> bool:
    """Whether there are bounds."""
    return not (math.isnan(self.low) or math.isnan(self.high))

  def shifted(self, offset: float) -> 'Interval':
    """Interval of the same values plus a constant."""
    return Interval(self.mean + offset, self.low + offset, self.high + offset, self.count)


def mean_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
  """Mean over seeds with Student's t interval."""
  sample = _sample(values)
  mean = math.fsum(sample) / len(sample) if _finite(sample) else math.nan
  if math.isnan(mean) or len(sample) < 2:
    return Interval.bare(mean, len(sample))
  quantile = special.stdtrit(len(sample) - 1, (1 + confidence) / 2)
  half = float(quantile * np.std(sample, ddof=1) / math.sqrt(len(sample)))
  return Interval(mean, mean - half, mean + half, len(sample))


def bootstrap_interval(
  statistic: 'Callable[..., np.ndarray]',
  *samples: Sequence[float],
  confidence: float = CONFIDENCE,
  paired: bool = False,
) -> Interval:
  """Percentile bootstrap interval of `statistic(*samples, axis=-1)`.

  Samples are resampled independently, or together where `paired`. The count is the smallest
  sample's. The resampling is the same on every call, so equal samples give equal intervals.
  """
  arrays = [_sample(values) for values in samples]
  count = min(map(len, arrays))
  estimate = float(statistic(*arrays, axis=-1)) if all(map(_finite, arrays)) else math.nan
  if math.isnan(estimate) or count < 2:
    return Interval.bare(estimate, count)
  # scipy renamed `random_state` to `rng` in 1.15.
  name = 'rng' if 'rng' in inspect.signature(stats.bootstrap).parameters else 'random_state'
  found = stats.bootstrap(
    arrays,
    statistic,
    n_resamples=_RESAMPLES,
    vectorized=True,
    paired=paired,
    axis=-1,
    confidence_level=confidence,
    method='percentile',  # the other methods rest on the jackknife, which fails for a median
    **{name: np.random.default_rng(_SEED)},
  ).confidence_interval
  # A percentile interval can miss its own estimate; it is widened to hold it.
  low, high = min(float(found.low), estimate), max(float(found.high), estimate)
  return Interval(estimate, low, high, count)


def median_interval(values: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
  """Median with its bootstrap interval: how well it is known."""
  return bootstrap_interval(np.median, values, confidence=confidence)


def median_spread(values: Sequence[float]) -> Interval:
  """Median with the quartiles as bounds: how much single values vary, not how it is known."""
  sample = _sample(values)
  if not _finite(sample):
    return Interval.bare(math.nan, len(sample))
  low, median, high = np.quantile(sample, (0.25, 0.5, 0.75)).tolist()
  return Interval(median, low, high, len(sample)) if len(sample) > 1 else Interval.bare(median)


def ratio_interval(
  numerator: Sequence[float],
  denominator: Sequence[float],
  confidence: float = CONFIDENCE,
  paired: bool = False,
) -> Interval:
  """Ratio of two medians; `paired` where the values come from the same interleaved rounds."""

  def ratio(top, bottom, axis):
    return np.median(top, axis=axis) / np.median(bottom, axis=axis)

  return bootstrap_interval(ratio, numerator, denominator, confidence=confidence, paired=paired)


def growth_exponent(
  lengths: Sequence[float], times: Sequence[Sequence[float]], confidence: float = CONFIDENCE
) -> Interval:
  """Exponent p of time ~ length^p: the log-log slope of median times [rounds][lengths].

  Whole rounds are resampled, because what slows one length in a round slows its neighbours too.
  """
  grid = np.log(np.asarray(lengths, float))
  rounds = np.asarray(times, float)  # [rounds, lengths]
  if rounds.ndim != 2 or rounds.shape[1] != len(grid) or len(np.unique(grid)) < 2:
    raise ValueError(f'times {rounds.shape} must be [rounds, lengths], two lengths at least')
  centred = grid - np.mean(grid)
  weights = centred / np.sum(np.square(centred))  # least squares: slope = weights . log(time)

  if not np.all(rounds > 0):  # there is no logarithm of zero, nor of what diverged
    return Interval.bare(math.nan, len(rounds))

  def slope(*columns, axis):
    medians = np.stack([np.median(column, axis=axis) for column in columns])
    return np.tensordot(weights, np.log(medians), axes=1)

  return bootstrap_interval(slope, *rounds.T, confidence=confidence, paired=True)


def _sample(values: Sequence[float]) -> 'np.ndarray':
  sample = np.asarray(values, np.float64)
  if sample.ndim != 1:
    raise ValueError(f'a sample is a list of numbers, not an array of shape {sample.shape}')
  return sample


def _finite(sample: 'np.ndarray') -> bool:
  """Whether there are values, and numbers all of them."""
  return len(sample) > 0 and bool(np.all(np.isfinite(sample)))
