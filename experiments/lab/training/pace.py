"""How many steps one compiled call makes: as many as take about a second.

While a call runs, nobody looks at the time that is left or at a signal to stop. The number of steps
is data of the compiled program, so that splitting them over several calls compiles nothing and
changes no number.
"""

import time
from collections.abc import Iterator

from experiments.lab import interruption

SECONDS = 1.0  # that a call should take


class Pace:
  """How many steps filled a call's time when last tried; of one program."""

  def __init__(self):
    self._steps = 1  # the first call compiles, and says little about speed

  def parts(self, total: int) -> Iterator[tuple[int, int]]:
    """Splits steps into calls, as (first step, count); Interrupted between two of them.

    The caller waits for a call's results before it takes the next part: that is the call's time.
    """
    start = 0
    while start < total:
      count, begun = min(self._steps, total - start), time.perf_counter()
      yield start, count
      interruption.check()
      seconds = max(time.perf_counter() - begun, 1e-6)
      self._steps = max(1, int(count * SECONDS / seconds))
      start += count
