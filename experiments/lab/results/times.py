"""Measured durations and memory sizes of layers in experiment records, for tables and figures.

Records that differ only in the seed are repetitions of a measurement, and their rounds are pooled.
Within a round all measurements are interleaved, so that rounds are the units of resampling.
"""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

from experiments.lab import optional
from experiments.lab.results.statistics import Interval, median_with_confidence_interval
from experiments.lab.results.store import canonical_json

np = optional.lazy_module('numpy')
MICRO = 1e6
# The largest accepted ratio between two measured durations of the same training step.
MAX_REPETITION_DRIFT = 1.25


class MeasuredQuantity(NamedTuple):
  """A duration or a memory size that is measured for each layer at each sequence length.

  `quantity` selects the measured points. An `exact` quantity is a size in bytes without noise; all
  others are times in seconds. A `shared` quantity belongs to all tokens of a training step
  together, whether they form a few long sequences or many short ones.
  """

  name: str
  quantity: str
  exact: bool = False
  shared: bool = False


STEP = MeasuredQuantity('training step', 'train', shared=True)
MEMORY = MeasuredQuantity('memory', 'train', exact=True, shared=True)
TOKEN = MeasuredQuantity('generated token', 'generate')
STATE = MeasuredQuantity('state', 'generate', exact=True)


def is_timing_record(record: dict) -> bool:
  """Whether the record contains measured durations of layers."""
  return 'tokens' in record['run']


def is_finished_with_consistent_timings(record: dict) -> bool:
  """Whether the run has finished, with repeated timings (if any) that agree."""
  if record['status'] != 'finished' or not is_timing_record(record):
    return record['status'] == 'finished'
  return all(
    slower_to_faster_step_time_ratio(record, layer) < MAX_REPETITION_DRIFT
    for layer in record['run']['layers']
  )


def slower_to_faster_step_time_ratio(record: dict, layer: str) -> float:
  """Returns the ratio of the longer to the shorter of two measured times of a training step.

  If the step was timed at several sequence lengths, this is the largest of their ratios.
  """
  first, second = (seconds_per_token(record, layer, quantity) for quantity in ('train', 'repeat'))
  ratios = [median(second[length]) / median(first[length]) for length in second if length in first]
  return max((max(ratio, 1 / ratio) for ratio in ratios), default=1.0)


def group_records_differing_only_in_seed(records: Iterable[dict]) -> list[list[dict]]:
  """Groups timing records that differ only in the seed, as repetitions of a measurement."""
  groups = {}
  for record in records:
    shared = {name: value for name, value in record['run'].items() if name != 'seed'}
    groups.setdefault(canonical_json(shared), []).append(record)
  return list(groups.values())


def add_token_count_and_device_to_title(
  title: str, records: Sequence[dict], include_run_settings: bool
) -> str:
  """Appends the tokens per step and the device to a title, if `include_run_settings` is true.

  Args:
    title: The title of a table or a figure panel.
    records: The records of the grid.
    include_run_settings: Whether the title includes the tokens and the device, because records of
      the report differ in them.

  Returns:
    The complete title.
  """
  run = records[0]['run']
  if not include_run_settings:
    return title
  return f'{title}, {run["tokens"]} tokens per step on {run["device"]}'


def describe_timing_setup(run: dict, workload: str) -> str:
  """Returns a phrase with the device, workload, model size and data type of a timing run."""
  settings = run['settings']
  return (
    f'{run["device"]}; {workload}; width {settings["width"]}, depth {settings["depth"]},'
    f' match {settings["match"]}, {settings["dtype"]}'
  )


def describe_workload(run: dict, *quantities: str) -> str:
  """Returns a phrase with the number of tokens that are processed in each measurement."""
  generated = f'{run["generated"]} generated tokens in each of {run["sequences"]} sequences'
  trained = f'{run["tokens"]} tokens per step'
  return '; '.join(dict.fromkeys(generated if q == 'generate' else trained for q in quantities))


def layer_measurements(record: dict, layer: str, quantity: str) -> list[dict]:
  """Returns the measurements of a quantity for one layer, in ascending order of length.

  Args:
    record: The record of a timed cell.
    layer: The canonical spec of the layer.
    quantity: 'train', 'forward', 'repeat' or 'generate'.

  Returns:
    The measurements, an empty list if the grid cell failed.
  """
  return [
    point
    for point in record['result'].get('points', ())
    if (point['layer'], point['quantity']) == (layer, quantity)
  ]


def describe_out_of_memory(records: Iterable[dict], *quantities: str) -> str:
  """Returns a sentence about layers and lengths that exceeded the memory, or an empty text."""
  points = [p for record in records for p in record['result'].get('points', ())]
  failures = dict.fromkeys(
    f'{p["layer"]} at {p["length"]}' for p in points
    if p['quantity'] in quantities and p['status'] == 'out of memory'
  )
  return f' Out of memory: {", ".join(failures)}.' if failures else ''


def seconds_per_token(record: dict, layer: str, quantity: str) -> dict[int, list[float]]:
  """Maps each measured length to the seconds per token of a layer in each measurement round.

  Args:
    record: The record of a timed cell.
    layer: The canonical spec of the layer.
    quantity: 'train', 'forward', 'repeat' or 'generate'; for the last, a length is a position.

  Returns:
    The seconds [rounds] for each measured length.
  """
  return {
    point['length']: [seconds / point['tokens'] for seconds in point['seconds']]
    for point in layer_measurements(record, layer, quantity)
    if point['seconds']
  }


def median_microseconds_per_token(
  records: Sequence[dict], layer: str, quantity: str, length: int
) -> Interval | None:
  """Returns the median microseconds per token of a layer over all measurement rounds.

  Args:
    records: The records of a grid.
    layer: The canonical spec of the layer.
    quantity: 'train', 'forward', 'repeat' or 'generate'.
    length: The length in tokens.

  Returns:
    The interval in microseconds, or None without a measurement.
  """
  rounds = [seconds_per_token(record, layer, quantity).get(length, ()) for record in records]
  pooled = [MICRO * seconds for times in rounds for seconds in times]
  return median_with_confidence_interval(pooled) if pooled else None


def measurements_as_array(records: Sequence[dict], quantity: MeasuredQuantity) -> 'np.ndarray':
  """Returns all measurements of a quantity as an array, with NaN for missing measurements.

  Times are seconds per token of all rounds of all repetitions. Sizes in bytes have a single round,
  and a size of 0 is replaced by 1, so that ratios are finite. Layers and lengths have the order of
  the run.

  Args:
    records: The records of a grid.
    quantity: The measured quantity.

  Returns:
    An array [rounds, layers, lengths].
  """
  layers, lengths = (records[0]['run'][name] for name in ('layers', 'lengths'))
  pooled = []
  for record in records:
    rounds = 1 if quantity.exact else record['run']['rounds']
    sample = np.full((rounds, len(layers), len(lengths)), np.nan)
    for point in record['result'].get('points', ()):
      if point['quantity'] == quantity.quantity and point['length'] in lengths:
        indices = layers.index(point['layer']), lengths.index(point['length'])
        values = (
          _memory_bytes_as_list(point) if quantity.exact
          else np.divide(point['seconds'], point['tokens']))
        sample[: len(values), *indices] = values
    pooled.append(sample)
  if quantity.exact:
    return median_over_rounds(np.concatenate(pooled))[None]
  return np.concatenate(pooled)


def median_over_rounds(values: 'np.ndarray') -> 'np.ndarray':
  """Returns the median over the first axis, computed from the values that are not NaN.

  The median is NaN if all values are NaN.

  The input has the shape [rounds, ...], and the median has the shape [...].
  """
  ordered = np.sort(values, axis=0)  # NaN is sorted last.
  known = np.sum(~np.isnan(ordered), axis=0, keepdims=True)
  middle = np.maximum((known - 1) // 2, 0), np.minimum(known // 2, len(values) - 1)
  return sum(np.take_along_axis(ordered, indices, 0) for indices in middle)[0] / 2


def _memory_bytes_as_list(measurement: dict) -> list[int]:
  return [] if measurement['bytes'] is None else [max(1, measurement['bytes'])]
