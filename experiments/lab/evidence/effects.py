"""Functions that compute measured effects from records, with one number per seed or repetition.

Such a function, called an effect, returns None if a required record is missing. The functions below
return effects for given layers and tasks, so that most claims need no further code.
"""

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from experiments.lab.results import times
from experiments.lab.results.scores import (
  extrapolation_scores,
  scores_at_longest_extrapolation_distance,
  scores_by_seed,
)

Records = Sequence[dict]
Effect = Callable[[Records], list[float] | None]
TokenTimes = Callable[[dict, str], list[float]]  # From a record and a layer to times per token.


def largest_comparable_group_by_layer(records: Records, task_family: str) -> dict[str, list[dict]]:
  """Maps each layer to its records in the largest group of comparable records, sorted by distance.

  Runs are comparable if they differ only in the layer and the distance; variants of a task are not
  comparable. Of several groups of comparable runs the function selects the group with the most
  records, then the most steps, then the most seeds. Layers with different options count as
  different layers.
  """
  groups: dict[tuple, list[dict]] = {}
  for record in records:
    if record['status'] == 'finished' and record['result'].get('family') == task_family:
      settings = {k: str(v) for k, v in record['run'].items() if k not in ('layer', 'task')}
      key = record['result']['title'], tuple(sorted(settings.items()))
      groups.setdefault(key, []).append(record)
  if not groups:
    return {}
  largest = max(groups.values(), key=lambda g: (
    len(g), g[0]['run']['steps'], len(g[0]['run']['seeds'])))
  by_layer: dict[str, list[dict]] = {}
  for record in sorted(largest, key=lambda r: r['result']['distance']):
    by_layer.setdefault(record['run']['layer'], []).append(record)
  return by_layer


def score_drop_with_distance(task_family: str, layers: Iterable[str]) -> Effect:
  """Returns a function that computes, for each seed, the score drop with distance.

  The drop is the score at the shortest distance minus the score at the longest distance.
  """
  def compute_score_drops_over_distances(records: Records) -> list[float] | None:
    comparison, drops = largest_comparable_group_by_layer(records, task_family), []
    for layer in layers:
      if len(comparison.get(layer, ())) < 2:
        return None
      shortest, longest = (scores_by_seed(comparison[layer][index]) for index in (0, -1))
      drops += [shortest[seed] - longest[seed] for seed in shortest if seed in longest]
    return drops

  return compute_score_drops_over_distances


def advantage_at_longest_distance(
  task_family: str, layer: str, alternatives: Sequence[str]
) -> Effect:
  """Returns a function that computes, for each seed, the advantage over each alternative.

  The advantage is the score of the layer minus the score of the alternative, at the longest
  distance.

  Args:
    task_family: The name of the task, such as 'recall', for all its options.
    layer: The layer with the expected advantage.
    alternatives: The layers whose scores are subtracted.

  Returns:
    The effect, with a value for each alternative and seed.
  """
  def compute_advantage_over_each_alternative(records: Records) -> list[float] | None:
    comparison = largest_comparable_group_by_layer(records, task_family)
    if not {layer, *alternatives} <= set(comparison):
      return None
    record, *others = (comparison[name][-1] for name in (layer, *alternatives))
    if any(other['run']['task'] != record['run']['task'] for other in others):
      return None
    scores = scores_by_seed(record)
    return [
      scores[seed] - score for other in others for seed, score in scores_by_seed(other).items()]

  return compute_advantage_over_each_alternative


def advantage_over_best_alternative(
  task_family: str, layer: str, alternatives: Sequence[str]
) -> Effect:
  """Returns a function that computes, for each seed, the advantage over the best alternative.

  The advantage is the score of the layer minus the score of the best alternative, at the longest
  distance.

  Args:
    task_family: The name of the task, such as 'recall', for all its options.
    layer: The layer with the expected advantage.
    alternatives: The layers among which the best is selected.

  Returns:
    The effect, with a value for each seed.
  """
  effects = [advantage_at_longest_distance(task_family, layer, (name,)) for name in alternatives]

  def compute_advantage_over_best_alternative(records: Records) -> list[float] | None:
    advantages = [effect(records) for effect in effects]
    if not all(advantages):
      return None
    return min(advantages, key=lambda advantage: sum(advantage) / len(advantage))

  return compute_advantage_over_best_alternative


def score_at_longest_distance(task_family: str, layer: str) -> Effect:
  """Returns a function that computes, for each seed, the score at the longest distance."""
  def compute_scores_at_longest_distance(records: Records) -> list[float] | None:
    by_distance = largest_comparable_group_by_layer(records, task_family).get(layer)
    return list(scores_by_seed(by_distance[-1]).values()) if by_distance else None

  return compute_scores_at_longest_distance


def scores_outside_or_inside_receptive_field(task_family: str, layer: str, outside: bool) -> Effect:
  """Returns a function that computes, for each seed, scores outside or inside a receptive field.

  A score is outside if the distance that the task requires is at least the receptive field.

  Args:
    task_family: The name of the task, such as 'recall', for all its options.
    layer: A layer with a bounded receptive field.
    outside: Whether the distances exceed the receptive field.

  Returns:
    The effect, with a value for each distance and seed.
  """
  def compute_receptive_field_scores(records: Records) -> list[float] | None:
    scores = [
      score for record in largest_comparable_group_by_layer(records, task_family).get(layer, ())
      if (field := record['result']['receptive_field'])
      and (record['result']['distance'] >= field) == outside
      for score in scores_by_seed(record).values()
    ]
    return scores or None

  return compute_receptive_field_scores


def score_beyond_trained_distance(task_family: str, layers: Iterable[str]) -> Effect:
  """Returns a function that computes, for each seed, the score at the longest test distance.

  This distance is longer than all distances of the training data.
  """
  def compute_scores_beyond_trained_distance(records: Records) -> list[float] | None:
    comparison, scores = largest_comparable_group_by_layer(records, task_family), []
    for layer in layers:
      longest = [
        scores_at_longest_extrapolation_distance(record)
        for record in comparison.get(layer, ())[-1:]
      ]
      if not any(longest):
        return None
      scores += longest[0].values()
    return scores

  return compute_scores_beyond_trained_distance


def scores_at_shortest_and_longest_trained_length(
  record: dict
) -> tuple[dict[int, float], dict[int, float]] | None:
  """Returns the scores of all seeds at the shortest and at the longest trained source length.

  Returns:
    Both mappings from seed to score, or None without two requested trained lengths.
  """
  scores = extrapolation_scores(record)
  trained = [length for length in scores if length <= record['result']['distance']]
  return (scores[min(trained)], scores[max(trained)]) if len(trained) > 1 else None


def score_drop_with_source_length(task_family: str, layers: Iterable[str]) -> Effect:
  """Returns a function that computes, for each seed, the score drop with the source length.

  The drop is the score at the shortest minus the score at the longest trained source length.
  """
  def compute_score_drops_over_source_lengths(records: Records) -> list[float] | None:
    comparison, drops = largest_comparable_group_by_layer(records, task_family), []
    for layer in layers:
      pairs = [
        scores_at_shortest_and_longest_trained_length(record)
        for record in comparison.get(layer, ())[-1:]
      ]
      if not any(pairs):
        return None
      shortest, longest = pairs[0]
      drops += [shortest[seed] - longest[seed] for seed in shortest]
    return drops

  return compute_score_drops_over_source_lengths


def score_at_longest_trained_length(
  task_family: str, layer: str, alternatives: Sequence[str] = ()
) -> Effect:
  """Returns a function that computes, for each seed, a score at the longest trained source length.

  With alternatives, the function computes the score differences to them instead.

  Args:
    task_family: The name of the task, such as 'recall', for all its options.
    layer: The layer.
    alternatives: The layers whose scores are subtracted; empty for the score itself.

  Returns:
    The effect, with a value for each seed and alternative.
  """
  def compute_score_or_advantage_at_longest_length(records: Records) -> list[float] | None:
    comparison = largest_comparable_group_by_layer(records, task_family)
    pairs = [
      scores_at_shortest_and_longest_trained_length(record)
      for name in (layer, *alternatives) for record in comparison.get(name, ())[-1:]
    ]
    if len(pairs) < 1 + len(alternatives) or None in pairs:
      return None
    scores, *others = (longest for _, longest in pairs)
    if not others:
      return list(scores.values())
    return [
      scores[seed] - score for other in others for seed, score in other.items() if seed in scores]

  return compute_score_or_advantage_at_longest_length


def oracle_or_baseline_score(predictor: str) -> Effect:
  """Returns a function that collects the oracle score or the baseline score of each grid cell."""
  def compute_predictor_scores(records: Records) -> list[float] | None:
    controls = (record['result'].get('controls', {}) for record in records)
    return [scores[predictor] for scores in controls if predictor in scores] or None

  return compute_predictor_scores


def median_time_ratio(
  numerator: TokenTimes, denominator: TokenTimes, layers: Iterable[str]
) -> Effect:
  """Returns a function that computes, for each layer and repetition, a ratio of median durations.

  The rounds of a repetition share its parameters, its data and the load of the machine, so that
  each repetition has a single ratio.

  Args:
    numerator: A function that returns the times per token in the numerator.
    denominator: A function that returns the times per token in the denominator.
    layers: The layers.

  Returns:
    The effect, with a value for each layer and repetition.
  """
  def compute_median_time_ratios(records: Records) -> list[float] | None:
    grids: dict[str, list[dict]] = {}
    for record in filter(times.is_timing_record, records):
      grids.setdefault(str({**record['run'], 'seed': None}), []).append(record)
    largest = max(grids.values(), key=lambda g: (len(g), len(g[0]['run']['lengths'])), default=())
    pairs = [
      (numerator(record, layer), denominator(record, layer))
      for layer in layers for record in largest
    ]
    if not pairs or not all(sample for pair in pairs for sample in pair):
      return None
    return [median(a) / median(b) for a, b in pairs]

  return compute_median_time_ratios


def token_times_at_shortest_or_longest_length(quantity: str, min_or_max: Callable) -> TokenTimes:
  """Returns a function that selects the times per token at the shortest or the longest length.

  Args:
    quantity: 'train', 'forward' or 'generate'.
    min_or_max: `min` for the shortest length or `max` for the longest length.

  Returns:
    A function of a record and a layer, with an empty list for fewer than two lengths.
  """
  def times_per_token_at_shortest_or_longest_length(record: dict, layer: str) -> list[float]:
    by_length = times.seconds_per_token(record, layer, quantity)
    return by_length[min_or_max(by_length)] if len(by_length) > 1 else []

  return times_per_token_at_shortest_or_longest_length


def time_growth_with_length(quantity: str, layers: Iterable[str]) -> Effect:
  """Returns a function that computes, for each repetition, the growth of the time per token.

  The growth is the time per token at the longest length divided by that at the shortest length.
  """
  longest, shortest = (
    token_times_at_shortest_or_longest_length(quantity, select) for select in (max, min))
  return median_time_ratio(longest, shortest, layers)


def ratios_of_repeated_step_times(records: Records) -> list[float] | None:
  """Returns the ratios (at least 1) of two measured durations of the same step, for each layer."""
  def durations_of_repeated_step(record: dict, layer: str) -> list[float]:
    return next(iter(times.seconds_per_token(record, layer, 'repeat').values()), [])

  # A layer without measurements gives None, and the other layers are still evaluated.
  timed = list(filter(times.is_timing_record, records))
  layers = dict.fromkeys(layer for record in timed for layer in record['run']['layers'])
  first_times = token_times_at_shortest_or_longest_length('train', min)
  by_layer = (
    median_time_ratio(durations_of_repeated_step, first_times, (layer,))(timed) for layer in layers)
  return [max(ratio, 1 / ratio) for ratios in by_layer for ratio in ratios or ()] or None
