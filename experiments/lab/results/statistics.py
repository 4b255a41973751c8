"""Means, medians and ratios with confidence intervals.

The mean of scores over seeds has Student's t interval, mean ± t(n - 1) s / sqrt(n), because there
are few seeds and their scores are roughly normal. Times have medians and the percentile bootstrap,
because times are many, skewed and contain outliers.

A NaN is never dropped. It stands for a seed that diverged, and dropping it would favour unstable
models, so a single non-finite value makes the estimate and its bounds NaN.
A single value has no interval. Its bounds are NaN, and it is printed as a plain number.

Student (1908), doi:10.2307/2331554; Efron (1979), doi:10.1214/aos/1176344552.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from experiments.lab import optional

np = optional.lazy_module('numpy')
special, stats = optional.lazy_module('scipy.special'), optional.lazy_module('scipy.stats')
CONFIDENCE = 0.95
_RESAMPLES = 4999
_SEED = 20170612  # The seed is fixed so that the same records give the same report.


class Interval(NamedTuple):
  """An estimate, such as a mean, with its confidence bounds and its number of samples."""

  estimate: float
  low: float
  high: float
  count: int

  @classmethod
  def without_confidence_bounds(cls, estimate: float, count: int = 1) -> 'Interval':
    """Returns an interval with an estimate and with NaN for the unknown confidence bounds."""
    return cls(estimate, math.nan, math.nan, count)

  @property
  def has_bounds(self) -> bool:
    return not (math.isnan(self.low) or math.isnan(self.high))

  def add_offset(self, offset: float) -> 'Interval':
    """Returns an interval with the offset added to the estimate and to both bounds."""
    return Interval(self.estimate + offset, self.low + offset, self.high + offset, self.count)


def mean_with_confidence_interval(values: Sequence[float]) -> Interval:
  """Returns the mean of the values with Student's t confidence interval."""
  sample = _to_float_array(values)
  mean = math.fsum(sample) / len(sample) if _is_nonempty_and_finite(sample) else math.nan
  if math.isnan(mean) or len(sample) < 2:
    return Interval.without_confidence_bounds(mean, len(sample))
  quantile = special.stdtrit(len(sample) - 1, (1 + CONFIDENCE) / 2)
  half = float(quantile * np.std(sample, ddof=1) / math.sqrt(len(sample)))
  return Interval(mean, mean - half, mean + half, len(sample))


def bootstrap_confidence_interval(
  statistic: 'Callable[..., np.ndarray]',
  samples: Sequence[Sequence[float]],
  paired: bool = False,
) -> Interval:
  """Returns the statistic of the samples with its percentile bootstrap interval.

  The resampling uses a fixed seed, so equal samples give equal intervals.

  Args:
    statistic: A function of arrays [..., n] and `axis`, such as `np.median`.
    samples: One list of values for each argument of the statistic.
    paired: Whether the samples are resampled together instead of independently.

  Returns:
    The interval, with the size of the smallest sample as its count.
  """
  arrays = [_to_float_array(values) for values in samples]
  count = min(map(len, arrays))
  is_defined = all(map(_is_nonempty_and_finite, arrays))
  estimate = float(statistic(*arrays, axis=-1)) if is_defined else math.nan
  if math.isnan(estimate) or count < 2:
    return Interval.without_confidence_bounds(estimate, count)
  # SciPy renamed the argument `random_state` to `rng` in version 1.15.
  name = 'rng' if 'rng' in inspect.signature(stats.bootstrap).parameters else 'random_state'
  bounds = stats.bootstrap(
    arrays,
    statistic,
    n_resamples=_RESAMPLES,
    vectorized=True,
    paired=paired,
    axis=-1,
    confidence_level=CONFIDENCE,
    method='percentile',  # The other methods use the jackknife, which fails for a median.
    **{name: np.random.default_rng(_SEED)},
  ).confidence_interval
  # A percentile interval that excludes the estimate is widened to include the estimate.
  low, high = min(float(bounds.low), estimate), max(float(bounds.high), estimate)
  return Interval(estimate, low, high, count)


def median_with_confidence_interval(values: Sequence[float]) -> Interval:
  """Returns the median with its percentile bootstrap interval."""
  return bootstrap_confidence_interval(np.median, [values])


def median_ratio_with_confidence_interval(
  numerator: Sequence[float], denominator: Sequence[float], paired: bool = False
) -> Interval:
  """Returns the ratio of two medians with its percentile bootstrap interval.

  Args:
    numerator: Values [n], such as times of one layer.
    denominator: Values [m].
    paired: Whether values at equal positions come from the same interleaved round.

  Returns:
    The interval of the ratio, with the size of the smaller sample as its count.
  """

  def ratio_of_medians(numerator, denominator, axis):
    return np.median(numerator, axis=axis) / np.median(denominator, axis=axis)

  return bootstrap_confidence_interval(ratio_of_medians, [numerator, denominator], paired)


def growth_exponent(
  lengths: Sequence[float], measurements: Sequence[Sequence[float]]
) -> Interval:
  """Fits median measurement ~ length^p and returns the exponent p with its confidence interval.

  The exponent is the least-squares slope of log(median measurement) against log(length).

  Whole rounds are resampled, because a disturbance at one length also slows the other lengths of
  its round.

  Args:
    lengths: The lengths [lengths], at least two of which differ.
    measurements: The measurements [rounds, lengths], such as times.

  Returns:
    The interval of the exponent, with the number of rounds as its count.

  Raises:
    ValueError: The measurements are not [rounds, lengths], or all lengths are equal.
  """
  log_lengths = np.log(np.asarray(lengths, float))
  rounds = np.asarray(measurements, float)  # [rounds, lengths]
  if rounds.ndim != 2 or rounds.shape[1] != len(log_lengths) or len(np.unique(log_lengths)) < 2:
    raise ValueError(
      f'measurements of shape {rounds.shape} must be [rounds, lengths] at two lengths or more')
  centred = log_lengths - np.mean(log_lengths)
  # The least-squares slope is the dot product of `weights` with log(measurement).
  weights = centred / np.sum(np.square(centred))

  if not np.all(rounds > 0):  # Zero and NaN have no finite logarithm.
    return Interval.without_confidence_bounds(math.nan, len(rounds))

  def log_log_slope_of_medians(*columns, axis):
    medians = np.stack([np.median(column, axis=axis) for column in columns])
    return np.tensordot(weights, np.log(medians), axes=1)

  return bootstrap_confidence_interval(log_log_slope_of_medians, rounds.T, paired=True)


def _to_float_array(values: Sequence[float]) -> 'np.ndarray':
  sample = np.asarray(values, np.float64)
  if sample.ndim != 1:
    raise ValueError(f'a sample must be a list of numbers, not an array of shape {sample.shape}')
  return sample


def _is_nonempty_and_finite(sample: 'np.ndarray') -> bool:
  """Whether the sample is not empty and contains only finite numbers."""
  return len(sample) > 0 and bool(np.all(np.isfinite(sample)))
