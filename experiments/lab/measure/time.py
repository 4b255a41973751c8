"""Interleaved timing of several functions, so that machine load affects all of them similarly.

All compared functions run alternately in one process. In every round each function runs once, in a
random order that differs from round to round, so that a temporary slowdown affects all functions
and no function always runs after the same one. A call that is too short for the resolution of the
clock is repeated several times per round.
"""

import math
import random
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax

MAX_REPEATS = 1000


def time_interleaved(
  functions: Mapping[Hashable, Callable[[], Any]],
  rounds: int,
  *,
  min_seconds: float = 5e-3,
  timeout: float = math.inf,
  tolerate: Callable[[Hashable, Exception], bool] = lambda name, error: False,
  progress: Callable[[float], None] = lambda part: None,
  clock: Callable[[], float] = time.perf_counter,
) -> dict[Hashable, list[float]]:
  """Measures the time of each function once per round, in a new random order in each round.

  Args:
    functions: functions by name, without arguments, that return arrays; their results are awaited.
    rounds: the number of timed rounds. Two calls of each function precede them, for compilation and
      for choosing its number of repeats.
    min_seconds: the minimal duration of a measurement, for which shorter calls are repeated.
    timeout: the seconds after which no further round starts, and no further function is prepared.
    tolerate: called with the name and the exception when a function raises. If it returns true,
      the function is omitted from further rounds and from the result.
    progress: called with the fraction of rounds done.
    clock: returns the current time in seconds.

  Returns:
    The seconds per call of each function, one number per round.

  """
  end, running = clock() + timeout, dict(functions)

  def measure_seconds_per_call(function_name: Hashable, num_calls: int) -> float | None:
    """Returns the seconds per call, or None after an exception that `tolerate` accepts."""
    try:
      start = clock()
      for _ in range(num_calls):
        jax.block_until_ready(running[function_name]())
      return (clock() - start) / num_calls
    except Exception as error:
      if not tolerate(function_name, error):
        raise
      del running[function_name]
      return None

  repeats = {}
  for name in functions:
    if clock() > end:
      break
    if measure_seconds_per_call(name, 1) is None:  # the first call compiles
      continue
    if (second_call := measure_seconds_per_call(name, 1)) is not None:
      repeats[name] = _num_calls_for_duration(second_call, min_seconds)
  seconds = {name: [] for name in running}
  for number in range(rounds):
    if clock() > end:
      break
    order = list(running)
    random.Random(number).shuffle(order)
    for name in order:
      seconds[name].append(measure_seconds_per_call(name, repeats[name]))
    progress((number + 1) / rounds)
  return {name: seconds[name] for name in running}


def _num_calls_for_duration(seconds_per_call: float, min_seconds: float) -> int:
  """The number of calls that together take `min_seconds`, at most MAX_REPEATS."""
  if seconds_per_call * MAX_REPEATS <= min_seconds:
    return MAX_REPEATS
  return math.ceil(min_seconds / seconds_per_call)
