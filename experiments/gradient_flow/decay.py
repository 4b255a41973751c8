"""Analysis of the decay of gradient norms with distance by least-squares fits.

The logarithms of the norms at distances k = 1, 2, ... are fitted by least squares, seed by seed,

  exponential   log norm = a - k / tau        half-life = tau ln 2 tokens
  power         log norm = a - p log k

and the fit with the smaller residual over all seeds is the better fit. Distance 0 is left out,
because the dependence of an output on its own token is no dependence over time. The fit also stops
before the first distance at which the norm of any seed is below `SMALLEST_NORM`. Beyond a
convolution's receptive field the norm is exactly 0, and close to the smallest float32 number some
entries of the Jacobian are rounded to 0.

The verdict is on the change of log norm between the first and the last distance of the fit. The
change is that of the better fit, with Student's 95 % interval over the seeds.

  vanishing   the interval lies below -log 2, so that less than half of the gradient is left
  exploding   the interval lies above log 2, and the last norm is above 1, that of the identity
  rising      the interval lies above log 2, and the last norm is not above 1, such as where the
              first tokens receive more attention
  steady      the interval lies between -log 2 and log 2
  unclear     none of these, or only one seed
  not finite  a norm of one of the seeds is not finite

If the curve extends beyond a receptive field of r tokens, the verdict is `zero beyond r - 1`.

Bengio, Simard and Frasconi 1994; Pascanu, Mikolov and Bengio 2013, "On the difficulty of training
recurrent neural networks".
"""

import math
from typing import NamedTuple

from experiments.lab import optional
from experiments.lab.results.scores import results_at_best_learning_rate
from experiments.lab.results.statistics import Interval, mean_with_confidence_interval

np = optional.lazy_module('numpy')
SMALLEST_NORM = 1e-30  # far above float32's smallest normal number, 1e-38
FEWEST_DISTANCES = 3  # for a fit
LOG_2 = math.log(2)
# Each decay law is log norm = a + b f(k) at distance k. This dict contains the functions f.
DECAY_LAWS = {'exponential': lambda k: k, 'power': lambda k: np.log(k)}


class NormCurves(NamedTuple):
  """Gradient norms for each seed and input-output distance, and the model's receptive field."""

  distances: 'np.ndarray'  # [N]
  norms: 'np.ndarray'  # [seeds, N]
  receptive_field: int | None = None  # in tokens, or None if unbounded

  def mean_log10_norm_at(self, distance: int) -> Interval | str | None:
    """The log10 gradient norm at a distance, averaged over seeds, or None for unmeasured distances.

    The mean is minus infinity where all norms beyond the receptive field are 0. The result is the
    text `below -30` where the norm of a seed is below `SMALLEST_NORM`.
    """
    if distance not in self.distances:
      return None
    values = self.norms[:, list(self.distances).index(distance)]
    is_beyond = self.has_distances_beyond_receptive_field and distance >= self.receptive_field
    if is_beyond and not np.any(values):
      return Interval.without_confidence_bounds(-math.inf, len(values))
    if np.any(values < SMALLEST_NORM):  # checked first, because other seeds may be NaN
      return f'below {math.log10(SMALLEST_NORM):.0f}'
    return mean_with_confidence_interval(np.log10(values))

  def geometric_mean_norms_over_seeds(self, min_norm: float) -> list[tuple[int, Interval]]:
    """Returns pairs of a distance and the geometric mean of the norms over seeds.

    Distance 0 and distances with a mean of at most `min_norm` are omitted.
    """
    with np.errstate(divide='ignore'):
      logs = [mean_with_confidence_interval(column) for column in np.log10(self.norms[:, 1:]).T]
    return [
      (int(k), Interval(*(10.0 ** min(bound, 300) for bound in log[:3]), log.count))
      for k, log in zip(self.distances[1:], logs, strict=True)
      if log.estimate > math.log10(min_norm)
    ]

  @property
  def has_distances_beyond_receptive_field(self) -> bool:
    """Whether norms were measured at distances outside the receptive field."""
    return self.receptive_field is not None and self.receptive_field <= self.distances[-1]

  @property
  def curves_within_fit_range(self) -> 'NormCurves':
    """The part of the gradient-norm curves to which decay laws are fitted.

    It starts at distance 1 and ends before the first norm below `SMALLEST_NORM`.
    """
    too_small = np.flatnonzero(np.any(self.norms[:, 1:] < SMALLEST_NORM, 0))
    stop = 1 + too_small[0] if len(too_small) else len(self.distances)
    return self._replace(distances=self.distances[1:stop], norms=self.norms[:, 1:stop])


class Fit(NamedTuple):
  """A least-squares fit of the log gradient norm against distance, with a slope for each seed."""

  slopes: 'np.ndarray'  # [seeds], of log norm in k, or in log k
  residual: float  # root mean square over all seeds and distances
  change: 'np.ndarray'  # [seeds], of log norm between the first and the last distance


class Decay(NamedTuple):
  """Exponential and power-law fits to gradient norms, and a verdict such as `vanishing`."""

  verdict: str
  better: str | None = None  # a key of DECAY_LAWS
  fits: dict[str, Fit] | None = None
  half_life: Interval | str | None = None  # in tokens, of the exponential fit


def gradient_norm_curves_at_initialisation(record: dict) -> NormCurves:
  """Returns the gradient norms in the record of an untrained model, by seed and distance."""
  return _gradient_norm_curves_of_ensemble_members(record['result'], record['result'], slice(None))


def gradient_norm_curves_by_training_step(record: dict) -> dict[int, NormCurves]:
  """Returns gradient norms at the best learning rate, keyed by the training step of evaluation."""
  members, result = record['result']['members'], record['result']
  rows = [members.index(member) for member in results_at_best_learning_rate(record)]
  return {
    evaluation['step']: _gradient_norm_curves_of_ensemble_members(evaluation, result, rows)
    for evaluation in result['watched']
  }


def _gradient_norm_curves_of_ensemble_members(
  measurement: dict, result: dict, member_indices
) -> NormCurves:
  """Returns the gradient norms of the given ensemble members at all measured distances."""
  norms = np.array(measurement['norms'], float)[member_indices]
  return NormCurves(np.array(measurement['distances']), norms, result['receptive_field'])


def fit_log_norms(curves: NormCurves, decay_law: str) -> Fit:
  """Fits log gradient norms linearly in the distance k ('exponential') or in log k ('power')."""
  x, y = DECAY_LAWS[decay_law](curves.distances.astype(float)), np.log(curves.norms)
  centred = x - x.mean()
  slopes = (y @ centred) / (centred @ centred)
  residuals = y - y.mean(1, keepdims=True) - slopes[:, None] * centred
  return Fit(slopes, float(np.sqrt(np.mean(residuals**2))), slopes * (x[-1] - x[0]))


def analyse_decay(curves: NormCurves) -> Decay:
  """Fits decay laws to gradient norms, and classifies their decay, for example as `vanishing`.

  The result contains the fits, the verdict, and the half-life of the exponential fit in tokens.
  """
  if not np.all(np.isfinite(curves.norms)):
    return Decay('not finite')
  part, field_verdict = curves.curves_within_fit_range, None
  if curves.has_distances_beyond_receptive_field:
    field_verdict = f'zero beyond {curves.receptive_field - 1}'
  if len(part.distances) < FEWEST_DISTANCES:
    return Decay(field_verdict or 'unclear')
  fits = {law: fit_log_norms(part, law) for law in DECAY_LAWS}
  better = min(fits, key=lambda law: fits[law].residual)
  half_life = half_life_from_slope(
    mean_with_confidence_interval(fits['exponential'].slopes), int(part.distances[-1]))
  verdict = _classify_norm_change(
    mean_with_confidence_interval(fits[better].change),
    mean_with_confidence_interval(np.log(part.norms[:, -1])))
  return Decay(field_verdict or verdict, better, fits, half_life)


def _classify_norm_change(log_norm_change: Interval, last_log_norm: Interval) -> str:
  """Classifies gradient norms as vanishing, steady, rising, exploding or unclear."""
  if not log_norm_change.has_bounds:
    return 'unclear'
  if log_norm_change.high < -LOG_2:
    return 'vanishing'
  if log_norm_change.low > LOG_2:
    return 'exploding' if last_log_norm.low > 0 else 'rising'
  is_steady = log_norm_change.low > -LOG_2 and log_norm_change.high < LOG_2
  return 'steady' if is_steady else 'unclear'


def half_life_from_slope(slope: Interval, longest_distance: int) -> Interval | str:
  """The half-life of the gradient norm in tokens, from the slope of the log norm per token.

  A half-life above the longest fitted distance, or a rising norm, gives `none within` that
  distance. If the interval of the slope contains 0, only a lower bound is known.
  """
  tokens = [math.inf if rate >= 0 else -LOG_2 / rate for rate in slope[:3]]
  if tokens[0] > longest_distance:
    return f'none within {longest_distance}'
  if not slope.has_bounds:
    return Interval.without_confidence_bounds(tokens[0], slope.count)
  return Interval(*tokens, slope.count) if slope.high < 0 else f'{tokens[1]:.2g} or more'


def log10_gradient_norm_decrease_with_distance(
  norm_curves: NormCurves, smallest_token_distance: int = 1
) -> list[float]:
  """The log10 gradient norm at `smallest_token_distance` minus that at the longest distance.

  The list has an entry for each seed, or none if `smallest_token_distance` was not measured.
  Norms below `SMALLEST_NORM` count as `SMALLEST_NORM`, so that the result is a lower bound.
  """
  if smallest_token_distance not in norm_curves.distances:
    return []
  start, end = (np.log10(np.maximum(norm_curves.norms[:, index], SMALLEST_NORM))
                for index in (list(norm_curves.distances).index(smallest_token_distance), -1))
  return (start - end).tolist()


def largest_norms_beyond_receptive_field(curves: NormCurves) -> list[float]:
  """The largest norm of each seed outside the receptive field, or [] if none was measured."""
  if not curves.has_distances_beyond_receptive_field:
    return []
  return curves.norms[:, curves.distances >= curves.receptive_field].max(1).tolist()
