"""What a training cell chooses: the learning rate, by validation alone."""

import math

from experiments.lab.cells.training import choose
from experiments.lab.tasks.adding import Adding
from experiments.lab.tasks.recall import Recall
from experiments.lab.training.loop import Member


def test_the_rate_is_chosen_by_mean_validation_and_never_by_test():
  def members(validation):
    return [
      Member(seed, rate, validation=value, test=1 - value)
      for rate, values in validation.items()
      for seed, value in enumerate(values)
    ]

  high, low = Recall(), Adding()
  assert choose(high, members({0.1: [0.5, 0.5], 0.2: [0.9, 0.3], 0.3: [0.99, 0.0]})) == 0.2
  assert choose(low, members({0.1: [0.5, 0.5], 0.2: [0.9, 0.3], 0.3: [0.9, 0.0]})) == 0.3
  for bad in (math.nan, math.inf, -math.inf):
    assert choose(high, members({0.2: [1.0, bad], 0.1: [0.1, 0.1]})) == 0.1
    assert choose(low, members({0.2: [0.0, bad], 0.1: [0.1, 0.1]})) == 0.1
  assert choose(high, members({0.3: [0.7], 0.1: [0.7]})) == 0.1  # of equals, the lower
  alike = [Member(0, rate, validation=0.0, validation_loss=loss)
           for rate, loss in ((0.1, 2.0), (0.2, 1.0))]
  assert choose(high, alike) == 0.2  # nobody is right: by the loss
  ended = [Member(0, 0.1, 'diverged', validation=0.9), Member(0, 0.2, 'finished', validation=0.1)]
  assert choose(high, ended) == 0.2  # though the argmax of NaN hits what is common
