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


def comparable_records_by_layer(
  records: Records, task_family: str
) -> dict[str, list[dict]]:
  """Selects records that differ only in layer and dependency distance, and groups them by layer.

  The records of a layer are sorted by distance. Variants of a task are not compared with each
  other. Of several groups of records with equal settings the function selects the group with the
  most records, then the most steps, then the most seeds. Layers with different options count as
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
  """Returns a function that computes the score decrease from the shortest to the longest distance.

  For each seed the decrease is the score at the shortest distance minus the score at the longest
  distance.
  """
  def compute_score_drops_with_longer_dependencies(records: Records) -> list[float] | None:
    comparison, drops = comparable_records_by_layer(records, task_family), []
    for layer in layers:
      if len(comparison.get(layer, ())) < 2:
        return None
      shortest, longest = (scores_by_seed(comparison[layer][index]) for index in (0, -1))
      drops += [shortest[seed] - longest[seed] for seed in shortest if seed in longest]
    return drops

  return compute_score_drops_with_longer_dependencies


def advantage_at_longest_distance(
  task_family: str, layer: str, compared_layers: Sequence[str]
) -> Effect:
  """Returns a function that computes a layer's score advantage at the longest dependency distance.

  The advantage is the layer's score minus the score of each compared layer.

  Args:
    task_family: The name of the task, such as 'recall', for all its options.
    layer: The layer with the expected advantage.
    compared_layers: The layers whose scores are subtracted.

  Returns:
    The effect, with a value for each compared layer and seed.
  """
  def compute_score_gains_over_compared_layers(records: Records) -> list[float] | None:
    comparison = comparable_records_by_layer(records, task_family)
    if not {layer, *compared_layers} <= set(comparison):
      return None
    record, *others = (comparison[name][-1] for name in (layer, *compared_layers))
    if any(other['run']['task'] != record['run']['task'] for other in others):
      return None
    scores = scores_by_seed(record)
    return [
      scores[seed] - score for other in others for seed, score in scores_by_seed(other).items()]

  return compute_score_gains_over_compared_layers


def advantage_over_best_alternative(
  task_family: str, layer: str, alternative_layers: Sequence[str]
) -> Effect:
  """Returns a function that subtracts the best alternative layer's score from a layer's score.

  The scores are those at the longest distance.

  Args:
    task_family: The name of the task, such as 'recall', for all its options.
    layer: The layer with the expected advantage.
    alternative_layers: The layers among which the best is selected.

  Returns:
    The effect, with a value for each seed.
  """
  effects = [
    advantage_at_longest_distance(task_family, layer, (name,)) for name in alternative_layers]

  def compute_score_gains_over_best_alternative_layer(records: Records) -> list[float] | None:
    advantages = [effect(records) for effect in effects]
    if not all(advantages):
      return None
    return min(advantages, key=lambda advantage: sum(advantage) / len(advantage))

  return compute_score_gains_over_best_alternative_layer


def score_at_longest_distance(task_family: str, layer: str) -> Effect:
  """Returns a function that computes, for each seed, the score at the longest distance."""
  def compute_scores_at_longest_dependency_distance(records: Records) -> list[float] | None:
    by_distance = comparable_records_by_layer(records, task_family).get(layer)
    return list(scores_by_seed(by_distance[-1]).values()) if by_distance else None

  return compute_scores_at_longest_dependency_distance


def scores_beyond_or_within_receptive_field(
  task_family: str, layer: str, beyond_receptive_field: bool
) -> Effect:
  """Returns a function that selects task scores at distances beyond or within a receptive field.

  The distances are dependency distances of the task. A dependency is beyond the receptive field if
  its distance is at least the receptive field.

  Args:
    task_family: The name of the task, such as 'recall', for all its options.
    layer: A layer with a bounded receptive field.
    beyond_receptive_field: Whether the selected dependencies are beyond the receptive field.

  Returns:
    The effect, with a value for each distance and seed.
  """
  def select_scores_beyond_or_within_receptive_field(records: Records) -> list[float] | None:
    scores = [
      score for record in comparable_records_by_layer(records, task_family).get(layer, ())
      if (receptive_field := record['result']['receptive_field'])
      and (record['result']['distance'] >= receptive_field) == beyond_receptive_field
      for score in scores_by_seed(record).values()
    ]
    return scores or None

  return select_scores_beyond_or_within_receptive_field


def score_beyond_longest_training_dependency(task_family: str, layers: Iterable[str]) -> Effect:
  """Returns a function that computes, for each seed, the score at the longest test distance.

  This distance is longer than all distances in the training data.
  """
  def compute_scores_at_longest_extrapolation_distance(records: Records) -> list[float] | None:
    comparison, scores = comparable_records_by_layer(records, task_family), []
    for layer in layers:
      longest = [
        scores_at_longest_extrapolation_distance(record)
        for record in comparison.get(layer, ())[-1:]
      ]
      if not any(longest):
        return None
      scores += longest[0].values()
    return scores

  return compute_scores_at_longest_extrapolation_distance


def scores_at_shortest_and_longest_training_length(
  record: dict
) -> tuple[dict[int, float], dict[int, float]] | None:
  """Returns the scores of all seeds at the shortest and the longest source length in training.

  Returns:
    Both mappings from seed to score, or None without two requested lengths that occur in training.
  """
  scores = extrapolation_scores(record)
  training_lengths = [length for length in scores if length <= record['result']['distance']]
  if len(training_lengths) < 2:
    return None
  return scores[min(training_lengths)], scores[max(training_lengths)]


def score_drop_with_source_length(task_family: str, layers: Iterable[str]) -> Effect:
  """Returns a function that computes the score decrease from the shortest to the longest source.

  For each seed the decrease is the score at the shortest minus the score at the longest training
  source length.
  """
  def compute_score_drops_with_longer_source_sequences(records: Records) -> list[float] | None:
    comparison, drops = comparable_records_by_layer(records, task_family), []
    for layer in layers:
      pairs = [
        scores_at_shortest_and_longest_training_length(record)
        for record in comparison.get(layer, ())[-1:]
      ]
      if not any(pairs):
        return None
      shortest, longest = pairs[0]
      drops += [shortest[seed] - longest[seed] for seed in shortest]
    return drops

  return compute_score_drops_with_longer_source_sequences


def score_at_longest_training_length(task_family: str, layer: str) -> Effect:
  """Returns a function that computes each seed's score at the longest source length in training."""
  def compute_scores_at_longest_training_length(records: Records) -> list[float] | None:
    layer_scores = _layer_scores_at_longest_training_length(records, task_family, (layer,))
    return list(layer_scores[0].values()) if layer_scores else None

  return compute_scores_at_longest_training_length


def advantage_at_longest_training_length(
  task_family: str, layer: str, compared_layers: Sequence[str]
) -> Effect:
  """Returns a function that computes a layer's advantage at the longest training source length.

  The advantage is the layer's score minus the score of each compared layer.

  Args:
    task_family: The name of the task, such as 'recall', for all its options.
    layer: The layer with the expected advantage.
    compared_layers: The layers whose scores are subtracted.

  Returns:
    The effect, with a value for each compared layer and seed.
  """
  def compute_score_differences_at_longest_training_length(records: Records) -> list[float] | None:
    layer_scores = _layer_scores_at_longest_training_length(
      records, task_family, (layer, *compared_layers))
    if layer_scores is None:
      return None
    scores, *others = layer_scores
    return [
      scores[seed] - score for other in others for seed, score in other.items() if seed in scores]

  return compute_score_differences_at_longest_training_length


def _layer_scores_at_longest_training_length(
  records: Records, task_family: str, layers: Sequence[str]
) -> list[dict[int, float]] | None:
  """Maps seeds to scores for each layer, or returns None if the scores of a layer are missing."""
  comparison = comparable_records_by_layer(records, task_family)
  pairs = [
    scores_at_shortest_and_longest_training_length(record)
    for layer in layers for record in comparison.get(layer, ())[-1:]
  ]
  if len(pairs) < len(layers) or None in pairs:
    return None
  return [longest for _, longest in pairs]


def reference_predictor_score(predictor_name: str) -> Effect:
  """Returns a function that collects the scores of the oracle or the baseline in all grid cells."""
  def collect_reference_predictor_scores(records: Records) -> list[float] | None:
    controls = (record['result'].get('controls', {}) for record in records)
    return [scores[predictor_name] for scores in controls if predictor_name in scores] or None

  return collect_reference_predictor_scores


def median_time_ratio(
  get_numerator_times: TokenTimes, get_denominator_times: TokenTimes, layers: Iterable[str]
) -> Effect:
  """Returns a function that computes a ratio of two median times per token for each layer.

  The ratio is computed for each layer and repetition. The rounds of a repetition share its
  parameters, its data and the load of the machine, so that each repetition has a single ratio.

  Args:
    get_numerator_times: A function that returns the times per token in the numerator.
    get_denominator_times: A function that returns the times per token in the denominator.
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
      (get_numerator_times(record, layer), get_denominator_times(record, layer))
      for layer in layers for record in largest
    ]
    if not pairs or not all(sample for pair in pairs for sample in pair):
      return None
    return [median(a) / median(b) for a, b in pairs]

  return compute_median_time_ratios


def seconds_per_token_at_selected_length(
  timed_operation: str, select_length: Callable
) -> TokenTimes:
  """Returns a function that selects the times per token at the shortest or the longest length.

  Args:
    timed_operation: 'train', 'forward' or 'generate'.
    select_length: `min` for the shortest length or `max` for the longest length.

  Returns:
    A function of a record and a layer, with an empty list for fewer than two lengths.
  """
  def select_times_per_token(record: dict, layer: str) -> list[float]:
    by_length = times.seconds_per_token(record, layer, timed_operation)
    return by_length[select_length(by_length)] if len(by_length) > 1 else []

  return select_times_per_token


def time_per_token_growth_with_length(timed_operation: str, layers: Iterable[str]) -> Effect:
  """Returns a function that computes the factor by which the time per token grows with the length.

  For each layer and repetition, the factor is the time per token at the longest length divided by
  the time per token at the shortest length.
  """
  longest, shortest = (
    seconds_per_token_at_selected_length(timed_operation, select) for select in (max, min))
  return median_time_ratio(longest, shortest, layers)


def ratios_between_repeated_timings(records: Records) -> list[float] | None:
  """Returns, for each layer, the ratios (at least 1) of two timings of the same training step."""
  def seconds_per_token_in_repeated_measurement(record: dict, layer: str) -> list[float]:
    return next(iter(times.seconds_per_token(record, layer, 'repeat').values()), [])

  # A layer without measurements gives None, and the other layers are still evaluated.
  timed = list(filter(times.is_timing_record, records))
  layers = dict.fromkeys(layer for record in timed for layer in record['run']['layers'])
  first_times = seconds_per_token_at_selected_length('train', min)
  by_layer = (
    median_time_ratio(seconds_per_token_in_repeated_measurement, first_times, (layer,))(timed)
    for layer in layers
  )
  return [max(ratio, 1 / ratio) for ratios in by_layer for ratio in ratios or ()] or None
