"""What the record of a trained cell says: scores by seed, at the learning rate that was chosen.

Scores are on the common scale of all tasks, 0 for the best answer that does not look and 1 for the
oracle: score = (metric - chance) / (perfect - chance). A member that diverged scores 0.
"""

import math

from experiments.results.statistics import Interval, mean_interval


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


def scores(record: dict) -> dict[int, float]:
  """Seed -> test score."""
  result = record['result']
  span = result['perfect'] - result['chance']
  return {
    member['seed']: (member['test'] - result['chance']) / span
    if math.isfinite(member['test']) else 0.0
    for member in chosen(record)
  }


def higher_is_better(record: dict) -> bool:
  """Whether the metric rises towards the oracle's."""
  return record['result']['perfect'] > record['result']['chance']
