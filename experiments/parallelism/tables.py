"""Tables and figure panels of the growth of time, operations and memory with the length."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from experiments.lab.results import times
from experiments.lab.results.figures import Panel
from experiments.lab.results.statistics import Interval, median_ratio_with_confidence_interval
from experiments.lab.results.table import Table

MEBI = 2**20


class Metric(NamedTuple):
  """Measured quantity that has its own table and panel, such as the time of a training step.

  The value is a median over rounds, or a number of the compiled program, which is the same in all
  rounds. The function `value_of_program` computes such a number from a measured point.
  """

  quantity: str
  title: str
  unit: str
  axis: str = 'sequence length'
  value_of_program: Callable[[dict], float | None] | None = None
  description: str = ''


METRICS = (
  Metric('train', 'Training', 'microseconds per token'),
  Metric('forward', 'Forward pass', 'microseconds per token'),
  Metric(
    'train', 'Operations of a training step', 'thousands per token',
    value_of_program=lambda point: _scale(point['operations'], 1e-3 / point['tokens']),
    description='arithmetic operations, counted exactly in the program'),
  Metric(
    'train', 'Memory of a training step', 'MiB',
    value_of_program=lambda point: _scale(point['bytes'], 1 / MEBI),
    description='temporary memory that the compiled program plans'),
  Metric(
    'train', 'Compilation of a training step', 'seconds',
    value_of_program=lambda point: point['compile_seconds'],
    description='time to compile the program once, without tracing'),
  Metric('generate', 'Generation', 'microseconds per token', 'position'),
)


def _scale(value: float | None, factor: float) -> float | None:
  return None if value is None else factor * value


def report(records: Iterable[dict]) -> tuple[list, list]:
  """Returns separate tables and figure panels for each device and combination of settings."""
  grids = times.group_records_differing_only_in_seed(records)
  include_run_settings, tables, panels = len(grids) > 1, [], []
  for repetitions in grids:
    timed_operations = repetitions[0]['run']['quantities']
    for metric in METRICS:
      if metric.quantity not in timed_operations:
        continue
      table, panel = metric_table_and_panel(metric, repetitions, include_run_settings)
      tables.append(table)
      panels.append(panel)
    if {'layer', 'layer_gradient'} <= set(timed_operations):
      tables.append(gradient_cost_table(repetitions, include_run_settings))
  return tables, panels


def metric_table_and_panel(
  metric: Metric, records: Sequence[dict], include_run_settings: bool
) -> tuple[Table, Panel]:
  """Makes a table and a figure panel of one metric against the sequence length.

  Args:
    metric: Metric to show.
    records: Repetitions of one grid.
    include_run_settings: Whether titles include the run settings, because records differ in them.

  Returns:
    The table with one row per layer, and the panel with one line per layer.

  """
  run = records[0]['run']
  layers, lengths = run['layers'], run['lengths']
  values = {
    layer: {length: metric_at_length(metric, records, layer, length) for length in lengths}
    for layer in layers
  }
  columns = ['layer', *map(str, lengths)]
  rows = [[layer, *values[layer].values()] for layer in layers]
  if len(lengths) > 1:
    columns.append(f'{lengths[-1]} / {lengths[0]}')
    for row in rows:
      row.append(metric_growth_ratio(metric, records, row[0], lengths[0], lengths[-1]))
  title = times.add_token_count_and_device_to_title(metric.title, records, include_run_settings)
  best = dict.fromkeys(map(str, lengths), 'lower')
  table = Table(f'{title}, {metric.unit}', columns, rows, metric_caption(metric, records), best)
  series = {
    layer: [(length, value) for length, value in by_length.items() if value is not None]
    for layer, by_length in values.items()
  }
  return table, Panel(title, metric.axis, metric.unit, series, log_x=True, log_y=True)


def gradient_cost_table(records: Sequence[dict], include_run_settings: bool) -> Table:
  """Makes a table of the time of a layer with its gradients, relative to the layer alone.

  Args:
    records: Repetitions of one grid.
    include_run_settings: Whether the title includes the run settings.

  Returns:
    The table with one row per layer, whose numbers compare times of the same rounds.

  """
  run = records[0]['run']
  layers, lengths = run['layers'], run['lengths']

  def time_in_forward_passes(layer, length):
    rounds = [
      [seconds for record in records
       for seconds in times.seconds_per_token(record, layer, quantity).get(length, ())]
      for quantity in ('layer_gradient', 'layer')]
    comparable = len(rounds[0]) == len(rounds[1]) > 0
    return median_ratio_with_confidence_interval(*rounds, paired=True) if comparable else None

  title = times.add_token_count_and_device_to_title(
    'Layer with its gradients in forward passes', records, include_run_settings)
  rows = [
    [layer, *(time_in_forward_passes(layer, length) for length in lengths)] for layer in layers]
  setting = times.describe_timing_setup(run, times.describe_workload(run, 'layer'))
  caption = (
    f'{setting}; time to compute the outputs of one layer and the gradients of its parameters and '
    'inputs, divided by the time to compute the outputs; ratio of medians and 95 % interval over '
    'paired rounds. Arithmetic alone gives 3, because each product of the forward pass has two in '
    'the backward pass. Residual blocks, loss and optimiser are not included.'
  )
  columns = ['layer', *map(str, lengths)]
  return Table(title, columns, rows, caption, dict.fromkeys(map(str, lengths), 'lower'))


def metric_at_length(
  metric: Metric, records: Sequence[dict], layer: str, length: int
) -> Interval | None:
  """Returns the median time of a layer at one sequence length, or a number of its program.

  Args:
    metric: Metric to show.
    records: Repetitions of one grid.
    layer: Spec of the layer.
    length: Sequence length, or position for generation.

  Returns:
    Microseconds per token with an interval, or a number of the compiled program without interval,
    or None where nothing was measured.

  """
  if metric.value_of_program:
    values = [
      metric.value_of_program(point) for record in records
      for point in times.layer_measurements(record, layer, metric.quantity)
      if point['length'] == length]
    known = [value for value in values if value is not None]
    return Interval.without_confidence_bounds(known[0], len(known)) if known else None
  return times.median_microseconds_per_token(records, layer, metric.quantity, length)


def metric_growth_ratio(
  metric: Metric, records: Sequence[dict], layer: str, first_length: int, last_length: int
) -> Interval | None:
  """Returns the value of a metric at the longest length relative to the shortest length.

  Args:
    metric: Metric to show.
    records: Repetitions of one grid.
    layer: Spec of the layer.
    first_length: Shortest length.
    last_length: Longest length.

  Returns:
    The ratio, or None where a value is missing. Times of the same rounds are compared in pairs.

  """
  if metric.value_of_program:
    low, high = (
      metric_at_length(metric, records, layer, length) for length in (first_length, last_length))
    # The ratio is undefined for 0, such as a program without temporary memory.
    is_defined = low and high and low.estimate
    return (
      Interval.without_confidence_bounds(high.estimate / low.estimate, low.count)
      if is_defined else None)
  repetitions = [times.seconds_per_token(record, layer, metric.quantity) for record in records]
  complete = [
    by_length for by_length in repetitions
    if first_length in by_length and last_length in by_length]
  pooled = [
    [seconds for by_length in complete for seconds in by_length[length]]
    for length in (last_length, first_length)]
  return median_ratio_with_confidence_interval(*pooled, paired=True) if complete else None


def metric_caption(metric: Metric, records: Sequence[dict]) -> str:
  """Describes the device, workload and statistic, and lists out-of-memory measurements."""
  run = records[0]['run']
  statistic = f'median and 95 % interval (rounds: {run["rounds"]}, repetitions: {len(records)})'
  if metric.value_of_program:
    statistic = metric.description
  setting = times.describe_timing_setup(run, times.describe_workload(run, metric.quantity))
  return f'{setting}; {statistic}.{times.describe_out_of_memory(records, metric.quantity)}'
