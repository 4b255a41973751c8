"""Effects, which are functions that compute one number per seed or repetition from records.

An effect returns None if a required record is missing. The functions below return effects for given
layers and tasks, so that most claims need no further code.
"""

from collections.abc import Callable, Iterable, Sequence
from statistics import median

from experiments.lab.results import times
from experiments.lab.results.scores import (
  extrapolation_scores,
  scores_at_longest_extrapolation,
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
  """Returns an effect for the score drop from the shortest to the longest distance."""
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
  """Returns an effect that compares a layer with each alternative at the longest distance.

  A value is the score of the layer minus the score of the alternative.

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
  """Returns an effect that subtracts the score of the best alternative from the score of a layer.

  Scores are compared at the longest distance.

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
  """Returns an effect that computes the score of each seed at the longest distance."""
  def compute_scores_at_longest_distance(records: Records) -> list[float] | None:
    by_distance = largest_comparable_group_by_layer(records, task_family).get(layer)
    return list(scores_by_seed(by_distance[-1]).values()) if by_distance else None

  return compute_scores_at_longest_distance


def scores_outside_or_inside_receptive_field(task_family: str, layer: str, outside: bool) -> Effect:
  """Returns an effect that collects scores at distances outside or inside the receptive field.

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
  """Returns an effect that collects scores at the longest distance beyond the training data."""
  def compute_scores_beyond_training(records: Records) -> list[float] | None:
    comparison, scores = largest_comparable_group_by_layer(records, task_family), []
    for layer in layers:
      longest = [
        scores_at_longest_extrapolation(record) for record in comparison.get(layer, ())[-1:]]
      if not any(longest):
        return None
      scores += longest[0].values()
    return scores

  return compute_scores_beyond_training


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
  """Returns an effect for the score drop from the shortest to the longest trained source length."""
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
  """Returns an effect for the score or advantage of a layer at the longest trained source length.

  Args:
    task_family: The name of the task, such as 'recall', for all its options.
    layer: The layer.
    alternatives: The layers whose scores are subtracted; empty for the score itself.

  Returns:
    The effect, with a value for each seed and alternative.
  """
  def compute_score_or_advantage(records: Records) -> list[float] | None:
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

  return compute_score_or_advantage


def oracle_or_baseline_score(predictor: str) -> Effect:
  """Returns an effect that collects the score of the oracle or the baseline in each grid cell."""
  def compute_predictor_scores(records: Records) -> list[float] | None:
    controls = (record['result'].get('controls', {}) for record in records)
    return [scores[predictor] for scores in controls if predictor in scores] or None

  return compute_predictor_scores


def median_time_ratio(
  numerator: TokenTimes, denominator: TokenTimes, layers: Iterable[str]
) -> Effect:
  """Returns an effect for the ratio of two median durations per token, computed for each layer.

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


def token_times_at_extreme_length(quantity: str, min_or_max: Callable) -> TokenTimes:
  """Returns a function that selects the durations per token at the shortest or longest length.

  Args:
    quantity: 'train', 'forward' or 'generate'.
    min_or_max: `min` for the shortest length or `max` for the longest length.

  Returns:
    A function of a record and a layer, with an empty list for fewer than two lengths.
  """
  def times_per_token_at_extreme_length(record: dict, layer: str) -> list[float]:
    by_length = times.seconds_per_token(record, layer, quantity)
    return by_length[min_or_max(by_length)] if len(by_length) > 1 else []

  return times_per_token_at_extreme_length


def time_growth_with_length(quantity: str, layers: Iterable[str]) -> Effect:
  """Returns an effect for the ratio of the times per token at the longest and shortest lengths."""
  longest, shortest = (token_times_at_extreme_length(quantity, select) for select in (max, min))
  return median_time_ratio(longest, shortest, layers)


def ratios_of_repeated_step_times(records: Records) -> list[float] | None:
  """Returns for each layer the ratio (at least 1) of two measured durations of a training step."""
  def durations_of_repeated_step(record: dict, layer: str) -> list[float]:
    return next(iter(times.seconds_per_token(record, layer, 'repeat').values()), [])

  # Separate evaluation retains the other layers if one layer has no measured durations.
  timed = list(filter(times.is_timing_record, records))
  layers = dict.fromkeys(layer for record in timed for layer in record['run']['layers'])
  first_times = token_times_at_extreme_length('train', min)
  by_layer = (
    median_time_ratio(durations_of_repeated_step, first_times, (layer,))(timed) for layer in layers)
  return [max(ratio, 1 / ratio) for ratios in by_layer for ratio in ratios or ()] or None
