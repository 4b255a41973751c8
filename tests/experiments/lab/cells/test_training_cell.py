"""Tests of the selection of the learning rate, which uses validation results only."""

import math

from experiments.lab.cells.training import best_learning_rate
from experiments.lab.tasks.adding import Adding
from experiments.lab.tasks.recall import Recall
from experiments.lab.training.loop import Member


def members(validation_by_rate):
  """Members with one seed per validation metric, and the opposite test metric."""
  return [
    Member(seed, rate, validation=metric, test=1 - metric)
    for rate, metrics in validation_by_rate.items()
    for seed, metric in enumerate(metrics)
  ]


def test_the_rate_is_selected_by_mean_validation_and_never_by_test():
  accuracy, error = Recall(), Adding()  # tasks whose metric is best when high, and when low
  assert best_learning_rate(
    accuracy, members({0.1: [0.5, 0.5], 0.2: [0.9, 0.3], 0.3: [0.99, 0.0]})) == 0.2
  assert best_learning_rate(
    error, members({0.1: [0.5, 0.5], 0.2: [0.9, 0.3], 0.3: [0.9, 0.0]})) == 0.3
  for invalid in (math.nan, math.inf, -math.inf):
    assert best_learning_rate(accuracy, members({0.2: [1.0, invalid], 0.1: [0.1, 0.1]})) == 0.1
    assert best_learning_rate(error, members({0.2: [0.0, invalid], 0.1: [0.1, 0.1]})) == 0.1
  assert best_learning_rate(accuracy, members({0.3: [0.7], 0.1: [0.7]})) == 0.1  # the lower rate
  equal_metrics = [Member(0, rate, validation=0.0, validation_loss=loss)
                   for rate, loss in ((0.1, 2.0), (0.2, 1.0))]
  assert best_learning_rate(accuracy, equal_metrics) == 0.2  # the rate with the lower loss
  # A diverged member can have a good metric, because the argmax of NaN is always the first class.
  one_diverged = [
    Member(0, 0.1, 'diverged', validation=0.9), Member(0, 0.2, 'finished', validation=0.1)]
  assert best_learning_rate(accuracy, one_diverged) == 0.2
