"""The number of training steps per compiled call, chosen such that a call takes about one second.

The time limit and signals to stop are only checked between calls. The number of steps is an
argument of the compiled program, so that splitting the steps over several calls compiles no new
program and changes no number.
"""

import time
from collections.abc import Iterator

from experiments.lab import interruption

TARGET_SECONDS = 1.0  # of one call


class ChunkSize:
  """Chooses the number of steps per call of a compiled program from the duration of earlier calls.

  The next call gets the number of steps that take TARGET_SECONDS at the speed of the last call.
  """

  def __init__(self):
    self._steps = 1  # the first call includes compilation, so that its speed is unknown

  def split_steps(self, num_steps: int) -> Iterator[tuple[int, int]]:
    """Yields (first step, number of steps) for each compiled call, for `num_steps` steps in total.

    The time between two pairs is taken as the time of a call, so that the caller must wait for the
    results of a call before it requests the next pair. A signal to stop raises `Interrupted`
    between two calls.
    """
    start = 0
    while start < num_steps:
      count, begun = min(self._steps, num_steps - start), time.perf_counter()
      yield start, count
      interruption.raise_if_stopped()
      seconds = max(time.perf_counter() - begun, 1e-6)
      self._steps = max(1, int(count * TARGET_SECONDS / seconds))
      start += count
