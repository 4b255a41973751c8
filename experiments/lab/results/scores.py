"""What the record of a trained cell says: scores by seed, at the learning rate that was chosen.

Scores are on the common scale of all tasks, 0 for the best answer that does not look and 1 for the
oracle: score = (metric - chance) / (perfect - chance). A member that diverged scores 0.
"""

import math

from experiments.lab.results.statistics import Interval, mean_interval


def chosen(record: dict) -> list[dict]:
  """The members at the chosen learning rate, by seed."""
  rate = record['result']['learning_rate']
  members = (m for m in record['result']['members'] if m['learning_rate'] == rate)
  return sorted(members, key=lambda member: member['seed'])


def metrics(record: dict) -> list[float]:
  """Test metrics by seed; NaN for a member that diverged."""
  return [member['test'] for member in chosen(record)]


def loss_interval(record: dict) -> Interval:
  """The mean test loss over seeds: cross-entropy in nats, or squared error."""
  return mean_interval([member['test_loss'] for member in chosen(record)])


def metric_interval(record: dict) -> Interval:
  """The mean test metric over seeds."""
  return mean_interval(metrics(record))


def extrapolation(record: dict) -> dict[int, Interval]:
  """Distance beyond the trained one -> the mean test metric over seeds there."""
  members = chosen(record)
  return {
    there['distance']: mean_interval([
      member['extrapolation'][i] if member['extrapolation'] else math.nan for member in members
    ])
    for i, there in enumerate(record['result']['extrapolation'])
  }


def scores(record: dict) -> dict[int, float]:
  """Seed -> test score."""
  metrics = {member['seed']: member['test'] for member in chosen(record)}
  return _scaled(metrics, record['result']['perfect'], record['result']['chance'])


def farthest_scores(record: dict) -> dict[int, float]:
  """Seed -> score at the greatest distance beyond the trained one; empty: there is none."""
  if not record['result']['extrapolation']:
    return {}
  last = record['result']['extrapolation'][-1]
  metrics = {member['seed']: [math.nan, *member['extrapolation']][-1] for member in chosen(record)}
  return _scaled(metrics, record['result']['perfect'], last['chance'])


def elsewhere_scores(record: dict) -> dict[int, dict[int, float]]:
  """Every other distance that was tested -> seed -> score."""
  result, members = record['result'], chosen(record)
  return {
    there['distance']: _scaled(
      {m['seed']: m['extrapolation'][i] if m['extrapolation'] else math.nan for m in members},
      result['perfect'], there['chance'],
    )
    for i, there in enumerate(result['extrapolation'])
  }


def _scaled(metrics: dict[int, float], perfect: float, chance: float) -> dict[int, float]:
  return {
    seed: (metric - chance) / (perfect - chance) if math.isfinite(metric) else 0.0
    for seed, metric in metrics.items()
  }


def higher_is_better(record: dict) -> bool:
  """Whether the metric rises towards the oracle's."""
  return record['result']['perfect'] > record['result']['chance']
