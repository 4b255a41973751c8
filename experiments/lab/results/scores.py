"""Test metrics and scores by seed, at the learning rate with the best validation metric.

Scores have the same scale in all tasks, with 0 for the best baseline that ignores the input and 1
for the oracle, score = (metric - chance) / (perfect - chance). A diverged training run has a
score of 0.
"""

import math

from experiments.lab.results.statistics import Interval, mean_with_confidence_interval


def results_at_best_learning_rate(record: dict) -> list[dict]:
  """Returns the result of each seed at the learning rate with the best validation metric."""
  rate = record['result']['learning_rate']
  members = (m for m in record['result']['members'] if m['learning_rate'] == rate)
  return sorted(members, key=lambda member: member['seed'])


def metrics_on_test_split(record: dict) -> list[float]:
  """Returns the test metric of each seed, or NaN for a seed whose training diverged."""
  return [member['test'] for member in results_at_best_learning_rate(record)]


def mean_test_loss_with_interval(record: dict) -> Interval:
  """Returns the mean test loss over seeds with its confidence interval.

  The loss is a cross-entropy in nats or a squared error.
  """
  members = results_at_best_learning_rate(record)
  return mean_with_confidence_interval([member['test_loss'] for member in members])


def mean_test_metric_with_interval(record: dict) -> Interval:
  """Returns the mean test metric over seeds with its confidence interval."""
  return mean_with_confidence_interval(metrics_on_test_split(record))


def mean_metric_of_each_extrapolation_test(record: dict) -> dict[int, Interval]:
  """Returns the mean test metric over seeds at each distance of the extrapolation tests.

  The keys are distances. Some of them may be shorter than the training distance.
  """
  members = results_at_best_learning_rate(record)
  return {
    tested['distance']: mean_with_confidence_interval([
      member['extrapolation'][i] if member['extrapolation'] else math.nan for member in members
    ])
    for i, tested in enumerate(record['result']['extrapolation'])
  }


def scores_by_seed(record: dict) -> dict[int, float]:
  """Maps each seed to its normalized test score."""
  metrics = {member['seed']: member['test'] for member in results_at_best_learning_rate(record)}
  return _normalized_scores(metrics, record['result']['perfect'], record['result']['chance'])


def scores_at_longest_extrapolation_distance(record: dict) -> dict[int, float]:
  """Maps each seed to its normalized score at the longest distance of the extrapolation tests.

  The mapping is empty if the record has no extrapolation tests.
  """
  if not record['result']['extrapolation']:
    return {}
  last = record['result']['extrapolation'][-1]
  metrics = {
    member['seed']: [math.nan, *member['extrapolation']][-1]
    for member in results_at_best_learning_rate(record)
  }
  return _normalized_scores(metrics, record['result']['perfect'], last['chance'])


def extrapolation_scores(record: dict) -> dict[int, dict[int, float]]:
  """Returns the normalized score of each seed at each distance of the extrapolation tests.

  The outer keys are distances, and the inner keys are seeds.
  """
  result, members = record['result'], results_at_best_learning_rate(record)
  return {
    tested['distance']: _normalized_scores(
      {m['seed']: m['extrapolation'][i] if m['extrapolation'] else math.nan for m in members},
      result['perfect'], tested['chance'],
    )
    for i, tested in enumerate(result['extrapolation'])
  }


def _normalized_scores(
  metrics: dict[int, float], oracle_metric: float, chance_metric: float
) -> dict[int, float]:
  scale = oracle_metric - chance_metric
  return {
    seed: (metric - chance_metric) / scale if math.isfinite(metric) else 0.0
    for seed, metric in metrics.items()
  }


def higher_is_better(record: dict) -> bool:
  return record['result']['perfect'] > record['result']['chance']
