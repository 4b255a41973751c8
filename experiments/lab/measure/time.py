"""How long calls take, so that their ratios can be trusted on a machine that is not quiet.

Whatever is compared takes turns in one process: in every round each subject runs once, in an order
of that round's own, so that a slow minute slows all of them and no one always follows the same
neighbour. A call shorter than the clock and its overhead can resolve is repeated within its turn.
"""

import math
import random
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax

MOST_REPEATS = 1000


def interleaved(
  subjects: Mapping[Hashable, Callable[[], Any]],
  rounds: int,
  *,
  shortest: float = 5e-3,
  timeout: float = math.inf,
  excuse: Callable[[Hashable, Exception], bool] = lambda name, error: False,
  progress: Callable[[float], None] = lambda part: None,
  clock: Callable[[], float] = time.perf_counter,
) -> dict[Hashable, list[float]]:
  """Seconds a call of every subject, one number a round, in the order of the rounds.

  Args:
    subjects: calls that return arrays; they are waited for.
    rounds: how many; two calls of each subject come before, to warm up and to fix its repeats.
    shortest: seconds that a turn lasts at least; a shorter call is repeated in it.
    timeout: seconds after which no round starts any more, nor another subject's warming up.
    excuse: is asked when a subject raises; true leaves the subject out of this and of the result.
    progress: gets the part of the rounds that is done.
    clock: seconds since some start.

  """
  end, running = clock() + timeout, dict(subjects)

  def turn(name: Hashable, repeats: int) -> float | None:
    """Seconds a call; None: it failed and is excused."""
    try:
      start = clock()
      for _ in range(repeats):
        jax.block_until_ready(running[name]())
      return (clock() - start) / repeats
    except Exception as error:
      if not excuse(name, error):
        raise
      del running[name]
      return None

  repeats = {}
  for name in subjects:
    if clock() > end:
      break
    if turn(name, 1) is not None and (once := turn(name, 1)) is not None:
      repeats[name] = _repeats(once, shortest)
  seconds = {name: [] for name in running}
  for number in range(rounds):
    if clock() > end:
      break
    order = list(running)
    random.Random(number).shuffle(order)
    for name in order:
      seconds[name].append(turn(name, repeats[name]))
    progress((number + 1) / rounds)
  return {name: seconds[name] for name in running}


def _repeats(once: float, shortest: float) -> int:
  """How many calls fill a turn."""
  return MOST_REPEATS if once * MOST_REPEATS <= shortest else math.ceil(shortest / once)
