"""Sequence lengths at which one layer becomes cheaper than another, as a table and heat maps.

Of two layers, the cheaper one needs less time or fewer bytes. The logarithm of the ratio of their
median costs is interpolated linearly over the logarithm of the sequence length. The layers cross
where this logarithm changes its sign. (For powers of the length this is exact.) Lengths for which
one of the layers ran out of memory are not compared. Equal costs are no crossover until the other
layer is cheaper.

The measurements of all layers are interleaved within a round. Complete rounds are resampled, the
same ones for all layers and lengths, so that a slow round affects both layers of a pair. The
interval of a crossover length is computed from the nearest crossover in the same direction in each
resample. The share of resamples without such a crossover is stated beside the interval. Bytes are
exact.
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

np = optional.lazy_module('numpy')
QUANTITY_LABELS = {
  times.STEP: 'time of a training step',
  times.MEMORY: 'memory of a training step',
  times.TOKEN: 'time per generated token',
}
WEIGHT_NEVER = 0.0  # heat-map weight of a layer that is cheaper at no length
WEIGHT_LONGEST = 0.2  # heat-map weight of a layer that is cheaper only at the longest length
_RESAMPLES = 1999
_SEED = 20170612  # fixed, so that the same records give the same report
_FEW, _SHORT = 10, 16  # the layers and the letters of a name that fit into a panel of standard size


@dataclasses.dataclass(frozen=True)
class Crossover:
  """A sequence length at which the cost curves of two layers cross.

  `length` is None if there is no such length. `missing_share` is the fraction of resamples without
  this crossover. If there is no crossover, it is the fraction of resamples without any crossover.
  """

  first: str
  second: str
  quantity: str
  lengths: tuple[int, ...]  # at which both layers were measured, ascending
  ratios: tuple[Interval, ...]  # cost of the first layer over that of the second, by length
  significant_lengths: tuple[int, ...]  # at which the costs differ significantly
  length: Interval | None = None
  cheaper_below: str | None = None  # None if the costs are equal or were not measured
  cheaper_above: str | None = None
  missing_share: float = 0.0

  @property
  def is_reliable(self) -> bool:
    """Whether the costs differ significantly and the cost curves cross in most bootstrap resamples.

    The fraction of bootstrap resamples in which the curves cross in the same direction must be at
    least CONFIDENCE.
    """
    return bool(self.significant_lengths) and self.missing_share <= 1 - CONFIDENCE

  @property
  def smallest_cost_ratio(self) -> Interval:
    """The minimum over the sequence lengths of the higher cost divided by the lower cost."""
    smallest = min(self.ratios, key=lambda ratio: abs(math.log(ratio.estimate)))
    if self.cheaper_above == self.second:
      return smallest
    return Interval(
      1 / smallest.estimate, 1 / smallest.high, 1 / smallest.low, smallest.count)


def find_crossovers(
  records: Sequence[dict], measured_quantity: times.MeasuredQuantity
) -> list[Crossover]:
  """Finds all crossovers of time or memory between pairs of layers of one timing grid."""
  run, rounds = records[0]['run'], times.measurements_as_array(records, measured_quantity)
  order = np.argsort(run['lengths'])
  lengths, rounds = np.asarray(run['lengths'])[order], rounds[..., order]
  estimates = np.log(times.median_over_rounds(rounds))
  resamples = np.log(_bootstrap_medians(rounds))
  crossovers = []
  for i, j in itertools.combinations(range(len(run['layers'])), 2):
    names = run['layers'][i], run['layers'][j], measured_quantity.name
    ratios, known = estimates[i] - estimates[j], ~np.isnan(estimates[i] - estimates[j])
    is_measured = ~np.isnan(rounds[:, i] - rounds[:, j])
    num_timing_rounds_by_length = np.sum(is_measured, axis=0)[known].tolist()
    resampled = (resamples[:, i] - resamples[:, j])[:, known]
    crossovers += _find_crossovers_of_pair(
      names, lengths[known], ratios[known], resampled, num_timing_rounds_by_length,
      measured_quantity.exact)
  return crossovers


def _find_crossovers_of_pair(
  names, lengths, log_ratios, resampled_log_ratios, num_timing_rounds_by_length, costs_are_exact
) -> list[Crossover]:
  """Finds the sequence lengths at which the cost curves of two layers cross.

  The logarithms of the ratios of their costs are `log_ratios` [lengths] as measured, and
  `resampled_log_ratios` [resamples, lengths] in the resamples.
  """
  intervals = [
    _bootstrap_interval_from_logarithms(log_ratio, log_resamples, num_timing_rounds)
    for log_ratio, log_resamples, num_timing_rounds in zip(
      log_ratios, resampled_log_ratios.T, num_timing_rounds_by_length, strict=True)]
  excludes_one = np.array(
    [ratio.has_bounds and not ratio.low <= 1 <= ratio.high for ratio in intervals], bool)
  significant = log_ratios != 0 if costs_are_exact else excludes_one
  common = (
    *names, tuple(lengths.tolist()), tuple(intervals), tuple(lengths[significant].tolist()))
  places, signs = _interpolate_sign_changes(lengths, log_ratios)
  resampled_places, resampled_signs = _interpolate_sign_changes(lengths, resampled_log_ratios)
  if not np.any(signs):
    cheaper = next((names[int(ratio > 0)] for ratio in log_ratios if ratio), None)
    missing_share = float(np.mean(~np.any(resampled_signs, axis=-1)))
    return [Crossover(*common, None, cheaper, cheaper, missing_share)]
  crossovers = []
  for place, sign in zip(places[signs != 0], signs[signs != 0], strict=True):
    distance = np.where(resampled_signs == sign, np.abs(resampled_places - place), np.inf)
    nearest = np.argmin(distance, axis=-1)[:, None]
    nearest_places = np.take_along_axis(resampled_places, nearest, -1)
    matching = nearest_places[np.isfinite(distance).any(-1)]
    above, below = names[int(sign > 0)], names[int(sign < 0)]
    length = _bootstrap_interval_from_logarithms(
      place, matching[:, 0], min(num_timing_rounds_by_length))
    missing_share = 1 - len(matching) / len(resampled_log_ratios)
    crossovers.append(Crossover(*common, length, below, above, missing_share))
  return crossovers


def _interpolate_sign_changes(
  lengths: 'np.ndarray', log_ratios: 'np.ndarray'
) -> 'tuple[np.ndarray, np.ndarray]':
  """Interpolates the lengths at which the log cost ratio of two layers changes its sign.

  The results are the logarithms of these lengths, and the signs above them. Both results have one
  entry for each pair of adjacent lengths [..., lengths - 1]. The sign is 0 where nothing changes.
  """
  log_lengths = np.log(lengths)
  log_ratios = np.nan_to_num(log_ratios)  # a resample may lack values at a length
  signs = np.sign(log_ratios)
  for i in range(1, len(log_lengths)):  # a tie has the sign of the length before it
    signs[..., i] = np.where(signs[..., i] == 0, signs[..., i - 1], signs[..., i])
  changed = signs[..., :-1] * signs[..., 1:] < 0
  left, right = log_ratios[..., :-1], log_ratios[..., 1:]
  fraction = left / np.where(changed, left - right, 1.0)
  crossings = log_lengths[:-1] + fraction * np.diff(log_lengths)
  return crossings, np.where(changed, signs[..., 1:], 0.0)


def _bootstrap_medians(costs: 'np.ndarray') -> 'np.ndarray':
  """Bootstrap medians [resamples, layers, lengths] of costs [rounds, layers, lengths]."""
  count = len(costs)
  picks = np.random.default_rng(_SEED).integers(count, size=(count, _RESAMPLES))
  layers = range(costs.shape[1])
  return np.stack([times.median_over_rounds(costs[picks, layer]) for layer in layers], axis=1)


def _bootstrap_interval_from_logarithms(
  log_estimate: float, log_resamples: 'np.ndarray', num_timing_rounds: int
) -> Interval:
  """Converts a log estimate and its bootstrap resamples to an estimate with an interval."""
  known = log_resamples[~np.isnan(log_resamples)]
  if num_timing_rounds < 2 or not len(known):
    return Interval.without_confidence_bounds(math.exp(log_estimate), num_timing_rounds)
  tail = (1 - CONFIDENCE) / 2
  low, high = np.quantile(known, (tail, 1 - tail))
  low, high = min(low, log_estimate), max(high, log_estimate)  # widened to contain the estimate
  return Interval(*map(math.exp, (log_estimate, low, high)), num_timing_rounds)


def crossover_table(records: Sequence[dict], include_run_settings: bool = False) -> Table:
  """A table that states, for each pair of layers, the cheaper layer by sequence length."""
  clauses = {}
  for measured_quantity, label in QUANTITY_LABELS.items():
    crossovers_by_pair = _group_by_layer_pair(find_crossovers(records, measured_quantity))
    for pair, crossovers in crossovers_by_pair.items():
      clauses.setdefault(pair, []).append(f'{label}: {describe_crossovers(crossovers)}')
  rows = [(' and '.join(pair), '; '.join(texts)) for pair, texts in clauses.items()]
  run = records[0]['run']
  workload = times.describe_workload(run, 'train', 'generate')
  caption = (
    f'The cheaper layer needs less time or memory. Crossover lengths have 95 % intervals from '
    f'resampled rounds (rounds: {run["rounds"]}, repetitions: {len(records)}). Where some '
    f'resamples have no crossover within the measured range, their share is stated. The bytes of a '
    f'training step are exact. For a generated token, the length is the position of the token. '
    f'{times.describe_timing_setup(run, workload)}.'
    f'{times.describe_out_of_memory(records, "train", "generate")}'
  )
  title = times.add_token_count_and_device_to_title(
    'Crossover lengths between layers', records, include_run_settings)
  return Table(title, ('layers', 'cheaper layer by sequence length'), rows, caption)


def describe_crossovers(crossovers: Sequence[Crossover]) -> str:
  """Names the cheaper layer of a pair for each range of sequence lengths."""
  last = crossovers[-1]
  if not last.lengths:
    return 'no length was measured for both layers'
  if last.cheaper_above is None:
    return 'both layers have equal costs'
  if not last.significant_lengths:
    return 'the difference is not significant'
  if last.length is None:
    return _describe_always_cheaper_layer(last)
  up_to = [f'{crossover.cheaper_below} up to {_format_crossover_length(crossover)}'
           for crossover in crossovers[1:]]
  first_length = _format_crossover_length(crossovers[0])
  first = f'{crossovers[0].cheaper_below} is cheaper up to {first_length}'
  return ', '.join((first, *up_to, f'{last.cheaper_above} beyond'))


def _describe_always_cheaper_layer(pair: Crossover) -> str:
  """Names the layer that is cheaper at all lengths and states the ratio of the costs."""
  first, last = pair.lengths[0], pair.lengths[-1]
  where = f'at {first}' if first == last else f'from {first} to {last}'
  insignificant = [str(n) for n in pair.lengths if n not in pair.significant_lengths]
  at_least = '' if first == last else 'at least '
  margin = f'by a factor of {at_least}{notation.format_table_cell(pair.smallest_cost_ratio)}'
  detail = f'but not significantly at {", ".join(insignificant)}' if insignificant else margin
  return f'{pair.cheaper_above} is cheaper {where} tokens, {detail}'


def _format_crossover_length(crossover: Crossover) -> str:
  """Formats a crossover length with its bootstrap confidence interval.

  The percentage of resamples without this crossover is added if it is not rounded to 0.
  """
  missing = round(100 * crossover.missing_share)
  length = crossover.length
  text = notation.format_table_cell(length if length.has_bounds else round(length.estimate))
  return f'{text} tokens' + (f' (no crossover in {missing} % of resamples)' if missing else '')


def crossover_heat_maps(
  records: Sequence[dict], include_run_settings: bool = False
) -> list[HeatMap]:
  """Heat maps of the sequence length above which one layer of a pair is cheaper than the other.

  Each quantity in QUANTITY_LABELS has a heat map, which compares all pairs of layers.
  """
  layers, lengths = (records[0]['run'][name] for name in ('layers', 'lengths'))
  longest_name = max(map(len, layers))
  side = 0.2 * max(len(layers), _FEW) + 0.06 * longest_name  # inches of cells and of names
  fits = len(layers) <= _FEW and longest_name <= _SHORT
  size = None if fits else (side + 1.0, side + 0.6)
  heat_maps = []
  for measured_quantity, label in QUANTITY_LABELS.items():
    weights = np.full((len(layers), len(layers)), WEIGHT_NEVER)
    texts = np.full((len(layers), len(layers)), '', object)
    pairs = _group_by_layer_pair(find_crossovers(records, measured_quantity))
    for (first, second), crossovers in pairs.items():
      indices = layers.index(first), layers.index(second)
      last = crossovers[-1]
      if not last.significant_lengths:
        texts[indices] = texts[indices[::-1]] = '≈' if last.lengths else notation.DASH
        continue
      cheaper = indices if last.cheaper_above == first else indices[::-1]
      since = last.length.estimate if last.length else min(lengths)
      weights[cheaper] = color_intensity(since, lengths)
      if last.length:
        texts[cheaper] = f'{since:.0f}' + ('' if last.is_reliable else '?')
    title = times.add_token_count_and_device_to_title(
      f'Cheaper layer, {label}', records, include_run_settings)
    labelled = _lengths_labelled_on_color_scale(lengths)
    scale = {color_intensity(length, lengths): str(length) for length in labelled}
    heat_maps.append(HeatMap(
      title, 'more expensive layer above the stated length', 'cheaper layer', layers, layers,
      weights.tolist(), cell_labels=texts.tolist(), scale_labels=scale | {WEIGHT_NEVER: 'never'},
      size=size, palette='Blues',
    ))
  return heat_maps


def color_intensity(crossover_length: float, measured_lengths: Sequence[int]) -> float:
  """Returns a heat-map intensity that decreases with the length at which two cost curves cross.

  The intensity is 1 at the shortest measured length and WEIGHT_LONGEST at the longest.
  """
  first, last = min(measured_lengths), max(measured_lengths)
  fraction = math.log(crossover_length / first) / math.log(last / first) if last > first else 0.0
  return 1 - (1 - WEIGHT_LONGEST) * fraction


def _lengths_labelled_on_color_scale(lengths: Iterable[int], max_count: int = 6) -> list[int]:
  """The sequence lengths that label the colour scale, at most `max_count` of them."""
  ordered = sorted(lengths)
  return ordered[:: math.ceil(len(ordered) / max_count)]


def _group_by_layer_pair(
  crossovers: Iterable[Crossover]
) -> dict[tuple[str, str], list[Crossover]]:
  pairs = {}
  for crossover in crossovers:
    pairs.setdefault((crossover.first, crossover.second), []).append(crossover)
  return pairs
