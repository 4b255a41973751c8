"""Who is ahead of whom from which length on: every pair of layers, as sentences and as heat maps.

Of two layers the one with less time, or fewer bytes, is ahead. The log of the ratio of their
medians is joined by straight lines over the log of the length; where it changes its sign, one
overtakes the other. (Between powers of the length this is exact.) Lengths that one of the two has
no memory for are not compared; a tie changes nothing, until the other is ahead.

All layers are timed in turns within a round, so that whole rounds are resampled, the same ones for
all layers and lengths: what slows a round slows both of a pair. A resample's own overtaking in the
same direction, the nearest one, gives the interval of a length; how many resamples have none is
told beside it. Bytes are exact.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence

from experiments.lab import optional
from experiments.lab.results import notation, times
from experiments.lab.results.figures import HeatMap
from experiments.lab.results.statistics import CONFIDENCE, Interval
from experiments.lab.results.table import Table

np = optional.later('numpy')
PHRASES = {
  times.STEP: 'in a training step',
  times.MEMORY: 'in memory',
  times.TOKEN: 'per generated token',
}
NEVER, LATEST = 0.0, 0.2  # shades of a heat map: never ahead, and from the longest length on
_RESAMPLES = 1999
_SEED = 20170612  # fixed: the same records give the same report
_FEW, _SHORT = 10, 16  # layers, and letters of a name, that an ordinary panel holds


@dataclasses.dataclass(frozen=True)
class Crossover:
  """A length from which another of two layers is ahead; or that there is none in range.

  `absent` is the part of resamples without it; where there is none, of those without any.
  """

  first: str
  second: str
  quantity: str
  lengths: tuple[int, ...]  # where both were measured, ascending
  ratios: tuple[Interval, ...]  # first over second, at each of them
  apart: tuple[int, ...]  # those lengths at which the two are told apart
  length: Interval | None = None
  ahead_below: str | None = None  # None: they are equal everywhere, or were not measured
  ahead_above: str | None = None
  absent: float = 0.0

  @property
  def sure(self) -> bool:
    """Whether no more resamples speak against it than an interval leaves out."""
    return bool(self.apart) and self.absent <= 1 - CONFIDENCE

  @property
  def lead(self) -> Interval:
    """How many times as much as the other the one behind takes, where it is least."""
    least = min(self.ratios, key=lambda ratio: abs(math.log(ratio.mean)))
    if self.ahead_above == self.second:
      return least
    return Interval(1 / least.mean, 1 / least.high, 1 / least.low, least.count)


def crossovers(records: Sequence[dict], measure: times.Measure) -> list[Crossover]:
  """All crossovers of all pairs of layers of one grid, in the order of its layers."""
  run, rounds = records[0]['run'], times.samples(records, measure)
  order = np.argsort(run['lengths'])
  lengths, rounds = np.asarray(run['lengths'])[order], rounds[..., order]
  estimates, resamples = np.log(times.medians(rounds)), np.log(_resampled(rounds))
  made = []
  for i, j in itertools.combinations(range(len(run['layers'])), 2):
    names = run['layers'][i], run['layers'][j], measure.name
    ratios, known = estimates[i] - estimates[j], ~np.isnan(estimates[i] - estimates[j])
    both = np.sum(~np.isnan(rounds[:, i] - rounds[:, j]), axis=0)[known].tolist()
    drawn = (resamples[:, i] - resamples[:, j])[:, known]
    made += _pair(names, lengths[known], ratios[known], drawn, both, measure.exact)
  return made


def _pair(names, lengths, ratios, drawn, counts, exact) -> list[Crossover]:
  """Crossovers of two layers from log-ratios [lengths], and those of resamples beside them."""
  shown = [_interval(*one) for one in zip(ratios, drawn.T, counts, strict=True)]
  sure = np.array([ratio.known and not ratio.low <= 1 <= ratio.high for ratio in shown], bool)
  apart = ratios != 0 if exact else sure
  common = *names, tuple(lengths.tolist()), tuple(shown), tuple(lengths[apart].tolist())
  places, signs = _crossings(lengths, ratios)
  others, turns = _crossings(lengths, drawn)
  if not np.any(signs):
    ahead = next((names[int(ratio > 0)] for ratio in ratios if ratio), None)
    return [Crossover(*common, None, ahead, ahead, float(np.mean(~np.any(turns, axis=-1))))]
  made = []
  for place, sign in zip(places[signs != 0], signs[signs != 0], strict=True):
    away = np.where(turns == sign, np.abs(others - place), np.inf)
    nearest = np.argmin(away, axis=-1)[:, None]
    found = np.take_along_axis(others, nearest, -1)[np.isfinite(away).any(-1)]
    above, below = names[int(sign > 0)], names[int(sign < 0)]
    length = _interval(place, found[:, 0], min(counts))
    made.append(Crossover(*common, length, below, above, 1 - len(found) / len(drawn)))
  return made


def _crossings(lengths: 'np.ndarray', ratios: 'np.ndarray') -> 'tuple[np.ndarray, np.ndarray]':
  """Logs of the lengths at which log-ratios [..., lengths] change sign, and the signs thereafter.

  There is one place for each two neighbours [..., lengths - 1]; its sign is 0 if nothing changes.
  """
  grid, ratios = np.log(lengths), np.nan_to_num(ratios)  # a resample may know nothing of a length
  signs = np.sign(ratios)
  for i in range(1, len(grid)):  # a tie goes on with whoever was ahead
    signs[..., i] = np.where(signs[..., i] == 0, signs[..., i - 1], signs[..., i])
  changed = signs[..., :-1] * signs[..., 1:] < 0
  left, right = ratios[..., :-1], ratios[..., 1:]
  part = left / np.where(changed, left - right, 1.0)
  return grid[:-1] + part * np.diff(grid), np.where(changed, signs[..., 1:], 0.0)


def _resampled(rounds: 'np.ndarray') -> 'np.ndarray':
  """Medians of resampled rounds: [rounds, layers, lengths] -> [resamples, layers, lengths]."""
  count = len(rounds)
  picks = np.random.default_rng(_SEED).integers(count, size=(count, _RESAMPLES))
  layers = range(rounds.shape[1])
  return np.stack([times.medians(rounds[picks, layer]) for layer in layers], axis=1)


def _interval(estimate: float, drawn: 'np.ndarray', count: int) -> Interval:
  """What the log of an estimate stands for, with percentiles of its resamples."""
  known = drawn[~np.isnan(drawn)]
  if count < 2 or not len(known):
    return Interval.bare(math.exp(estimate), count)
  tail = (1 - CONFIDENCE) / 2
  low, high = np.quantile(known, (tail, 1 - tail))
  bounds = estimate, min(low, estimate), max(high, estimate)  # widened to hold it
  return Interval(*map(math.exp, bounds), count)


def sentences(records: Sequence[dict], alone: bool = True) -> Table:
  """A row a pair of one grid's layers, which reads as a sentence; `alone` as of `times.title`."""
  clauses = {}
  for measure, phrase in PHRASES.items():
    for pair, found in _by_pair(crossovers(records, measure)).items():
      clauses.setdefault(pair, []).append(f'{phrase} {clause(found)}')
  rows = [(' and '.join(pair), '; '.join(said)) for pair, said in clauses.items()]
  run = records[0]['run']
  caption = (
    f'The one ahead takes less; lengths with 95 % intervals from resampled rounds (rounds: '
    f'{run["rounds"]}, repetitions: {len(records)}), and how many resamples have no such length '
    f'within the range, where some have none. Bytes of a step are exact. A token is generated at '
    f'that position. {times.setting(run, times.work(run, "train", "generate"))}.'
    f'{times.out_of_memory(records, "train", "generate")}'
  )
  return Table(times.title('Crossovers', records, alone), ('layers', 'who is ahead'), rows, caption)


def clause(found: Sequence[Crossover]) -> str:
  """What is known of one pair and one quantity, as the end of a sentence."""
  last = found[-1]
  if not last.lengths:
    return 'there is nothing to compare'
  if last.ahead_above is None:
    return 'they are equal'
  if not last.apart:
    return 'they are not told apart'
  if last.length is None:
    return _throughout(last)
  up_to = [f'{one.ahead_below} up to {_told(one)}' for one in found[1:]]
  first = f'{found[0].ahead_below} is ahead up to {_told(found[0])}'
  return ', '.join((first, *up_to, f'{last.ahead_above} beyond'))


def _throughout(found: Crossover) -> str:
  """Who is ahead at all lengths, and by how much; or where that is not sure."""
  first, last = found.lengths[0], found.lengths[-1]
  where = f'at {first}' if first == last else f'from {first} to {last}'
  hidden = [str(length) for length in found.lengths if length not in found.apart]
  least = '' if first == last else ' at least'
  margin = f'by a factor of {notation.cell(found.lead)}{least}'
  how = f'but not told apart at {", ".join(hidden)}' if hidden else margin
  return f'{found.ahead_above} is ahead {where} tokens, {how}'


def _told(found: Crossover) -> str:
  """A length with its interval, in tokens, and how many resamples know nothing of it."""
  absent = round(100 * found.absent)
  length = found.length
  text = notation.cell(length if length.known else round(length.mean))
  return f'{text} tokens' + (f' (never in {absent} % of resamples)' if absent else '')


def panels(records: Sequence[dict], alone: bool = True) -> list[HeatMap]:
  """A heat map a quantity: from which length a layer is ahead of another, to the longest."""
  layers, lengths = (records[0]['run'][name] for name in ('layers', 'lengths'))
  longest = max(map(len, layers))
  side = 0.2 * max(len(layers), _FEW) + 0.06 * longest  # inches of cells and of names
  ordinary = len(layers) <= _FEW and longest <= _SHORT
  size = None if ordinary else (side + 1.0, side + 0.6)
  made = []
  for measure, phrase in PHRASES.items():
    weights = np.full((len(layers), len(layers)), NEVER)
    notes = np.full((len(layers), len(layers)), '', object)
    for (first, second), found in _by_pair(crossovers(records, measure)).items():
      places = layers.index(first), layers.index(second)
      last = found[-1]
      if not last.apart:
        notes[places] = notes[places[::-1]] = '≈' if last.lengths else notation.DASH
        continue
      ahead = places if last.ahead_above == first else places[::-1]
      since = last.length.mean if last.length else min(lengths)
      weights[ahead] = shade(since, lengths)
      if last.length:
        notes[ahead] = f'{since:.0f}' + ('' if last.sure else '?')
    title = times.title(f'Ahead {phrase}', records, alone)
    scale = {shade(length, lengths): str(length) for length in _ticks(lengths)} | {NEVER: 'never'}
    made.append(HeatMap(
      title, 'behind from that length on', 'ahead', layers, layers, weights.tolist(),
      notes=notes.tolist(), scale=scale, size=size, palette='Blues',
    ))
  return made


def shade(length: float, lengths: Sequence[int]) -> float:
  """The weight of being ahead from a length on: 1 for the shortest, LATEST for the longest."""
  first, last = min(lengths), max(lengths)
  part = math.log(length / first) / math.log(last / first) if last > first else 0.0
  return 1 - (1 - LATEST) * part


def _ticks(lengths: Iterable[int], most: int = 6) -> list[int]:
  """The shortest length and others up to the longest, at equal steps."""
  ordered = sorted(lengths)
  return ordered[:: math.ceil(len(ordered) / most)]


def _by_pair(found: Iterable[Crossover]) -> dict[tuple[str, str], list[Crossover]]:
  pairs = {}
  for one in found:
    pairs.setdefault((one.first, one.second), []).append(one)
  return pairs
