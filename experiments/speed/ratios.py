"""Statistics of benchmark records, such as time ratios, percentages of peak FLOP/s, and memory.

The times of a record come from the same interleaved rounds, so they are compared in pairs. Records
of the same benchmark are repetitions, and their rounds are pooled.
"""

from collections.abc import Sequence
from statistics import median

from experiments.lab.results.statistics import Interval, median_ratio_with_confidence_interval
from experiments.speed import OURS
from experiments.speed.comparison import COMPUTATIONS


def implementation_measurements(record: dict, implementation: str) -> dict:
  """Returns the durations and memory of an implementation, or no values if it was not timed."""
  entries = record['result'].get('implementations', ())
  missing = {'seconds': {}, 'bytes': None}
  return next((entry for entry in entries if entry['name'] == implementation), missing)


def names_of_alternative_implementations(records: Sequence[dict]) -> list[str]:
  """Returns the distinct names of all implementations except this repository's."""
  names = [
    entry['name'] for record in records for entry in record['result'].get('implementations', ())
  ]
  return [name for name in dict.fromkeys(names) if name != OURS]


def timed_computations(records: Sequence[dict]) -> list[str]:
  """Returns the computations of which this repository's times are known, in the tables' order."""
  timed = {
    computation for record in records
    for computation in implementation_measurements(record, OURS)['seconds']}
  return [computation for computation in COMPUTATIONS if computation in timed]


def median_time_ratio(
  records: Sequence[dict], other_implementation: str, computation: str
) -> Interval | None:
  """Estimates the ratio of this repository's median time to another implementation's.

  Args:
    records: Repetitions of one benchmark.
    other_implementation: Name of the other implementation.
    computation: 'forward', 'gradient' or 'steps'.

  Returns:
    The ratio of medians with its interval, or None where either implementation has no times.

  """
  pairs = [
    (our_seconds, other_seconds)
    for record in records
    for our_seconds, other_seconds in zip(
      *(
        implementation_measurements(record, name)['seconds'].get(computation, ())
        for name in (OURS, other_implementation)
      ),
      strict=False,
    )
  ]
  if not pairs:
    return None
  return median_ratio_with_confidence_interval(*zip(*pairs, strict=True), paired=True)


def percent_of_peak_rate(records: Sequence[dict], computation: str) -> Interval | None:
  """The FLOP/s of this repository's matrix products, as a percentage of the device's peak FLOP/s.

  Returns None where matrix products do not dominate the cost.
  """
  seconds, percent_times_seconds = [], []
  for record in records:
    our_seconds = implementation_measurements(record, OURS)['seconds'].get(computation, ())
    flops = record['result'].get('matmul_flops', {}).get(computation)
    product = timing_of_fastest_matrix_product(record)
    if flops is None or not our_seconds or not product:
      continue
    scale = 100 * flops / product['flops']
    pairs = list(zip(product['seconds'], our_seconds, strict=False))
    percent_times_seconds += [scale * product_seconds for product_seconds, _ in pairs]
    seconds += [round_seconds for _, round_seconds in pairs]
  if not seconds:
    return None
  return median_ratio_with_confidence_interval(percent_times_seconds, seconds, paired=True)


def timing_of_fastest_matrix_product(record: dict) -> dict | None:
  """Returns the FLOPs and the durations of the matrix product with the most FLOPs per second."""
  return max(record['result'].get('peak', ()), key=operations_per_second, default=None)


def operations_per_second(matrix_product_timing: dict) -> float:
  """Returns the number of operations of a matrix product divided by its median duration."""
  return matrix_product_timing['flops'] / median(matrix_product_timing['seconds'])


def temporary_memory_bytes(records: Sequence[dict], implementation: str) -> int | None:
  """Returns the bytes of temporary memory of an implementation, or None if unknown."""
  planned = [implementation_measurements(record, implementation)['bytes'] for record in records]
  return next((count for count in planned if count is not None), None)
