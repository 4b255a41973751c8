"""How gradients fall with distance: two fits, the half-life, and a verdict that an interval names.

Norms at distances k = 1, 2, ... are fitted by least squares in their logarithm, seed by seed,

  exponential   log norm = a - k / tau        half-life = tau ln 2 tokens
  power         log norm = a - p log k

and the better of the two is the one that leaves the smaller residual over all seeds. Distance 0 is
left out: what a token does to its own output is no flow through time. So is everything from the
first norm on that is below `REACH` in one of the seeds: beyond a convolution's field it is exactly
0, and before float32 ends, rounding has eaten parts of it.

The verdict is about the change of log norm from the first distance of the fit to its last, by the
better fit, with Student's 95 % interval over the seeds:

  vanishing   the whole interval is below -log 2: less than half is left
  exploding   the whole interval is above log 2, and the norm ends above that of the identity, 1
  rising      the same of a norm that does not, such as where all early tokens are looked at more
  steady      the whole interval is between them
  unclear     none of these; always so with a single seed
  not finite  a norm of one of the seeds is no finite number

but of a curve that a receptive field cuts off it is `nothing beyond r`, the last distance seen.

Bengio, Simard and Frasconi 1994; Pascanu, Mikolov and Bengio 2013, "On the difficulty of training
recurrent neural networks".
"""

import math
from typing import NamedTuple

from experiments.lab import optional
from experiments.lab.results.scores import chosen
from experiments.lab.results.statistics import Interval, mean_interval

np = optional.later('numpy')
REACH = 1e-30  # entries of rows are larger than float32's smallest, 1e-38, by far
FEWEST = 3  # distances that a fit needs
HALF = math.log(2)
FORMS = {'exponential': lambda k: k, 'power': lambda k: np.log(k)}  # what log norm is linear in


class Curves(NamedTuple):
  """Norms by distance, of every seed, and the field beyond which they are exactly 0, if any."""

  distances: 'np.ndarray'  # [N]
  norms: 'np.ndarray'  # [seeds, N]
  receptive_field: int | None = None

  def at(self, distance: int) -> Interval | str | None:
    """Log10 of the norm, its mean over seeds with its interval; None: not measured there.

    Beyond the receptive field it is minus infinity, exactly; below reach it is only said to be.
    """
    if distance not in self.distances:
      return None
    values = self.norms[:, list(self.distances).index(distance)]
    if self.ends and distance >= self.receptive_field and not np.any(values):
      return Interval.bare(-math.inf, len(values))
    if np.any(values < REACH):  # also if others are NaN
      return f'below {math.log10(REACH):.0f}'
    return mean_interval(np.log10(values))

  def points(self, lowest: float) -> list[tuple[int, Interval]]:
    """The norm's geometric means from distance 1 on, as far as they are above `lowest`."""
    with np.errstate(divide='ignore'):
      logs = [mean_interval(column) for column in np.log10(self.norms[:, 1:]).T]
    return [
      (int(k), Interval(*(10.0 ** min(bound, 300) for bound in log[:3]), log.count))
      for k, log in zip(self.distances[1:], logs, strict=True) if log.mean > math.log10(lowest)
    ]

  @property
  def ends(self) -> bool:
    """Whether there are distances beyond the receptive field."""
    return self.receptive_field is not None and self.receptive_field <= self.distances[-1]

  @property
  def fitted(self) -> 'Curves':
    """The part that is fitted: from distance 1 to before the first norm below reach."""
    ends = np.flatnonzero(np.any(self.norms[:, 1:] < REACH, 0))
    stop = 1 + ends[0] if len(ends) else len(self.distances)
    return self._replace(distances=self.distances[1:stop], norms=self.norms[:, 1:stop])


class Fit(NamedTuple):
  """Least squares in the logarithm, by seed."""

  slopes: 'np.ndarray'  # [seeds] of log norm in k, or in log k
  residual: float  # root of the mean square over all seeds and distances
  change: 'np.ndarray'  # [seeds] of log norm, from the first distance to the last


class Decay(NamedTuple):
  """What the curves of several seeds come to; fits are None where nothing can be fitted."""

  verdict: str
  better: str | None = None  # of FORMS
  fits: dict[str, Fit] | None = None
  half_life: Interval | str | None = None  # in tokens, by the exponential fit


def at_start(record: dict) -> Curves:
  """What a cell at initialisation says."""
  return curves_of(record['result'], record['result'], slice(None))


def in_training(record: dict) -> dict[int, Curves]:
  """Step -> what a cell that trained said of itself there, at the rate that was chosen."""
  members, own = record['result']['members'], chosen(record)
  rows = [members.index(member) for member in own]
  return {look['step']: curves_of(look, record['result'], rows)
          for look in record['result']['watched']}


def curves_of(kept: dict, result: dict, rows) -> Curves:
  """The curves of some members from what a record keeps of them all."""
  norms = np.array(kept['norms'], float)[rows]
  return Curves(np.array(kept['distances']), norms, result['receptive_field'])


def fit(curves: Curves, form: str) -> Fit:
  """Log norm as a straight line in k ('exponential') or in log k ('power')."""
  x, y = FORMS[form](curves.distances.astype(float)), np.log(curves.norms)
  centred = x - x.mean()
  slopes = (y @ centred) / (centred @ centred)
  residuals = y - y.mean(1, keepdims=True) - slopes[:, None] * centred
  return Fit(slopes, float(np.sqrt(np.mean(residuals**2))), slopes * (x[-1] - x[0]))


def decay(curves: Curves) -> Decay:
  """The fits, the half-life and the verdict, which beyond a receptive field is that it ends."""
  if not np.all(np.isfinite(curves.norms)):
    return Decay('not finite')
  part, ends = curves.fitted, None
  if curves.ends:
    ends = f'nothing beyond {curves.receptive_field - 1}'
  if len(part.distances) < FEWEST:
    return Decay(ends or 'unclear')
  fits = {form: fit(part, form) for form in FORMS}
  better = min(fits, key=lambda form: fits[form].residual)
  life = half_life(mean_interval(fits['exponential'].slopes), int(part.distances[-1]))
  word = verdict(mean_interval(fits[better].change), mean_interval(np.log(part.norms[:, -1])))
  return Decay(ends or word, better, fits, life)


def verdict(change: Interval, last: Interval) -> str:
  """The word for a change of log norm that ends at its last value, by the rule above."""
  if not change.known:
    return 'unclear'
  if change.high < -HALF:
    return 'vanishing'
  if change.low > HALF:
    return 'exploding' if last.low > 0 else 'rising'
  return 'steady' if change.low > -HALF and change.high < HALF else 'unclear'


def half_life(slope: Interval, longest: int) -> Interval | str:
  """Tokens after which half is left, at a rate of change of log norm a token.

  A curve that takes longer than it was followed, or that rises, has none within the length; where
  the rate's interval admits that, the half-life is only known from below.
  """
  tokens = [math.inf if rate >= 0 else -HALF / rate for rate in slope[:3]]
  if tokens[0] > longest:
    return f'none within {longest}'
  if not slope.known:
    return Interval.bare(tokens[0], slope.count)
  return Interval(*tokens, slope.count) if slope.high < 0 else f'{tokens[1]:.2g} or more'


def falls(curves: Curves, near: int = 1) -> list[float]:
  """By how many powers of ten the norm falls from a distance to the greatest, by seed.

  What is below reach counts as `REACH`: the fall is at least this much.
  """
  if near not in curves.distances:
    return []
  start, end = (np.log10(np.maximum(curves.norms[:, place], REACH))
                for place in (list(curves.distances).index(near), -1))
  return (start - end).tolist()


def beyond(curves: Curves) -> list[float]:
  """The largest norm beyond the receptive field, by seed; empty: nothing lies beyond it."""
  if not curves.ends:
    return []
  return curves.norms[:, curves.distances >= curves.receptive_field].max(1).tolist()
