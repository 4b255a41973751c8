"""Tables and figures of operation counts, with fitted growth laws and published complexities.

The laws are functions of the sequence length n, the width d, and the option of a layer that bounds
its receptive field.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

from experiments.complexity.growth_laws import (
  Law,
  Polynomial,
  fit_growth_with_sequence_length,
  fit_polynomial,
  log_log_slope,
)
from experiments.lab.results.figures import Panel
from experiments.lab.results.statistics import Interval
from experiments.lab.results.table import Table

PHASES = {
  'forward': 'processing n tokens', 'train': 'training on n tokens',
  'generate': 'generating one token',
}
SOURCE = 'Vaswani et al. 2017, Table 1'


def _group_records_by_layer(
  records: Iterable[dict], displayed_layer_names: Mapping[str, str]
) -> dict[str, dict[str, dict]]:
  """Maps each displayed layer name to its records by platform."""
  grouped: dict[str, dict[str, dict]] = {}
  for record in records:
    run = record['run']
    name = displayed_layer_names.get(run['layer'], run['layer'])
    grouped.setdefault(name, {})[run['platform']] = record
  return grouped


def operation_counts_of_phase(record: dict, phase: str) -> list[dict]:
  """The operation counts of a record in one phase, 'forward', 'train' or 'generate'."""
  return [count for count in record['result']['counts'] if count['phase'] == phase]


def _fit_growth_law(
  record: dict, phase: str, counted_quantity: str, math_symbol_by_hyperparameter: Mapping[str, str]
) -> Polynomial | Law:
  """Fits counts exactly with a polynomial in length, width and kernel or window size.

  If no polynomial equals all counts, the result is a law in the length alone.
  """
  option, counts = record['result']['option'], operation_counts_of_phase(record, phase)
  option_axis = ('option',) if option else ()
  axes = ('length', 'width', *option_axis)
  by_sizes = {tuple(count[axis] for axis in axes): count[counted_quantity] for count in counts}
  names = 'n', 'd', *(math_symbol_by_hyperparameter[option['name']] for _ in option_axis)
  law = fit_polynomial(by_sizes, names)
  return law or fit_growth_with_sequence_length(_counts_by_length(record, phase, counted_quantity))


def _counts_by_length(record: dict, phase: str, counted_quantity: str) -> dict[int, int]:
  """Maps each sequence length to the value of a counted quantity, such as depth, at that length.

  The values are those at the first width and the kernel or window size of the layer spec.
  """
  option, widths = record['result']['option'], record['run']['widths']
  return {
    count['length']: count[counted_quantity] for count in operation_counts_of_phase(record, phase)
    if count['width'] == widths[0] and count['option'] == (option and option['value'])
  }


def _fit_growth_of_sequential_operations(
  record: dict, phase: str, counted_quantity: str = 'depth'
) -> Law:
  """Fits the growth of the number of sequential operations with the sequence length."""
  return fit_growth_with_sequence_length(_counts_by_length(record, phase, counted_quantity))


def _fit_growth_of_path_length(record: dict, path_length_unit: str) -> Law:
  """Fits the growth of the maximum path length with the sequence length.

  The argument `path_length_unit` is 'operations' or 'layers'.
  """
  counts = {path['length']: path[path_length_unit] for path in record['result']['paths']}
  return fit_growth_with_sequence_length(counts, record['result']['receptive_field'])


def operation_count_tables(
  records: Sequence[dict],
  displayed_layer_names: Mapping[str, str],
  published_complexity_by_layer: Mapping[str, tuple[str, str, str, str]],
  platform_descriptions: Mapping[str, str],
  math_symbol_by_hyperparameter: Mapping[str, str],
) -> list[Table]:
  """Tables of operation counts, sequential operations, path lengths and memory traffic.

  Args:
    records: the records of counting cells.
    displayed_layer_names: the displayed name of a layer by its spec, if it differs from the spec.
    published_complexity_by_layer: the published type, complexity, sequential operations and path
      length of a layer, by its displayed name.
    platform_descriptions: descriptions of the counted implementations by platform. The
      implementation for the first platform is compared with Table 1.
    math_symbol_by_hyperparameter: the mathematical symbol of each layer option that bounds the
      receptive field, such as 'k' for 'kernel_size'.

  Returns:
    The tables.

  """
  first, *_ = platform_descriptions
  grouped = _group_records_by_layer(records, displayed_layer_names)
  in_all_implementations = {
    layer: by_platform for layer, by_platform in grouped.items()
    if len(by_platform) == len(platform_descriptions)}
  in_first_implementation = {
    layer: by_platform[first] for layer, by_platform in in_all_implementations.items()}
  return [
    _comparison_with_vaswani_table_1(
      in_first_implementation, published_complexity_by_layer, math_symbol_by_hyperparameter),
    _matrix_product_table(in_first_implementation, math_symbol_by_hyperparameter),
    _sequential_operation_table(in_all_implementations, platform_descriptions),
    _path_length_table(in_all_implementations, platform_descriptions),
    _memory_traffic_table(in_first_implementation, math_symbol_by_hyperparameter),
  ]


def _comparison_with_vaswani_table_1(
  records: Mapping[str, dict], published_complexity_by_layer, math_symbol_by_hyperparameter
) -> Table:
  """Compares complexities in Table 1 of Vaswani 2017 with growth orders of our operation counts."""
  rows = []
  for layer, record in records.items():
    kind, *published = published_complexity_by_layer.get(layer, (None,) * 4)
    bounded = record['result']['receptive_field'] is not None
    counted = (
      _fit_growth_law(record, 'forward', 'products', math_symbol_by_hyperparameter).growth_order,
      _fit_growth_of_sequential_operations(record, 'forward').growth_order,
      _fit_growth_of_path_length(record, 'layers' if bounded else 'operations').growth_order,
    )
    orders = (order for pair in zip(counted, published, strict=True) for order in pair)
    rows.append((layer, kind, *orders))
  return Table(
    'Counted and published complexity of layers',
    ('layer', 'type', 'complexity', 'complexity (paper)', 'sequential operations',
     'sequential operations (paper)', 'path length', 'path length (paper)'),
    rows,
    'One layer processes n tokens at width d; k is the kernel size and r the window (or the '
    'receptive field). The complexity is the number of operations in matrix products and '
    'convolutions, including the projections, which the paper omits. The sequential operations are '
    'those on the longest chain of dependent operations, with a matrix product or a sum as one '
    'operation. The path length is the maximum over all pairs of positions of the number of '
    'operations on the shortest path between them, or the number of layers on this path where the '
    'receptive field of one layer is bounded. O(...) is given only if a law equals all counts '
    f'exactly. {SOURCE}.',
  )


def _matrix_product_table(records: Mapping[str, dict], math_symbol_by_hyperparameter) -> Table:
  """Table of how matrix-product operations and decoding-state bytes grow with length and width."""
  rows = [
    (layer,
     *(str(_fit_growth_law(record, phase, 'products', math_symbol_by_hyperparameter))
       for phase in PHASES),
     str(_fit_growth_law(record, 'generate', 'state_bytes', math_symbol_by_hyperparameter)))
    for layer, record in records.items()
  ]
  return Table(
    'Operations in matrix products and convolutions',
    ('layer', *PHASES.values(), 'state size in bytes'), rows,
    'Operations for one sequence, where a multiplication and an addition are two operations. One '
    'token is generated with a state that has a capacity of n tokens.',
  )


def _sequential_operation_table(
  records_by_layer: Mapping[str, Mapping[str, dict]], platform_descriptions
) -> Table:
  """Table of sequential operations, where a sum of m terms counts as 1 or as log2(m) operations."""
  columns, rows = ['layer'], [[layer] for layer in records_by_layer]
  for platform, description in platform_descriptions.items():
    for phase in ('forward', 'train'):
      columns.append(f'{PHASES[phase]}, {description}')
      for row in rows:
        record = records_by_layer[row[0]][platform]
        row.append(_fit_growth_of_sequential_operations(record, phase).text)
  first, *_ = platform_descriptions
  columns += ['processing n tokens, logarithmic sums', PHASES['generate']]
  for row in rows:
    record = records_by_layer[row[0]][first]
    row.append(_fit_growth_of_sequential_operations(record, 'forward', 'logarithmic_depth').text)
    row.append(_fit_growth_of_sequential_operations(record, 'generate').text)
  return Table(
    'Sequential operations', columns, rows,
    'The longest chain of dependent operations in a program, as a function of the sequence length '
    'n. A matrix product or a sum is one operation. In the column with logarithmic sums, a sum of '
    'm numbers is log₂ m operations, the levels of a tree of additions. These counts also depend '
    'on the width, and are given for the first width.',
  )


def _path_length_table(
  records_by_layer: Mapping[str, Mapping[str, dict]], platform_descriptions
) -> Table:
  """Table of how the maximum path length, in layers or operations, grows with sequence length."""
  first, *_ = platform_descriptions
  rows = [
    (layer, records[first]['result']['receptive_field'],
     _fit_growth_of_path_length(records[first], 'layers').text,
     *(_fit_growth_of_path_length(records[platform], 'operations').text
       for platform in platform_descriptions))
    for layer, records in records_by_layer.items()
  ]
  return Table(
    'Maximum path length between two positions',
    ('layer', 'receptive field', 'layers',
     *(f'operations, {description}' for description in platform_descriptions.values())), rows,
    'The maximum over all pairs of n positions of the number of operations on the shortest path '
    'through the program between them. The layer is stacked until there is a path between all '
    'positions. The column "layers" is the number of layers in this stack (levels for dilated '
    'convolutions). The receptive field is that of one layer, in tokens.',
  )


def _memory_traffic_table(records: Mapping[str, dict], math_symbol_by_hyperparameter) -> Table:
  """Table of how elementwise operations and memory traffic grow, in inference and in training."""
  columns, rows = ['layer'], [[layer] for layer in records]
  for phase in ('forward', 'train'):
    for counted_quantity, label in (('elementwise', 'elementwise operations'), ('bytes', 'bytes')):
      columns.append(f'{label}, {PHASES[phase]}')
      for row in rows:
        record = records[row[0]]
        law = _fit_growth_law(record, phase, counted_quantity, math_symbol_by_hyperparameter)
        row.append(law.growth_order)
  return Table(
    'Elementwise operations and memory traffic', columns, rows,
    'Orders of growth of the number of arithmetic operations outside of matrix products and '
    'convolutions, and of the bytes that all operations would read and write without any fusion.',
  )


FIGURE_QUANTITIES = {
  'operations in matrix products and convolutions': 'products',
  'sequential operations': 'depth',
}


def operation_count_panels(
  records: Sequence[dict],
  displayed_layer_names: Mapping[str, str],
  platform_descriptions: Mapping[str, str],
) -> list[Panel]:
  """Figure panels of operation counts against the sequence length, for a GPU implementation.

  Args:
    records: the records of counting cells.
    displayed_layer_names: the displayed name of a layer by its spec, if it differs from the spec.
    platform_descriptions: descriptions of the counted implementations by platform.

  Returns:
    Panels of operations in products, sequential operations and maximum path lengths.

  """
  first, *_ = platform_descriptions
  grouped = _group_records_by_layer(records, displayed_layer_names)
  in_first_implementation = {
    layer: by_platform[first] for layer, by_platform in grouped.items() if first in by_platform}

  def log_log_panel(title, points_by_layer):
    series = {layer: [(n, Interval.without_confidence_bounds(count)) for n, count in points]
              for layer, points in points_by_layer.items()}
    return Panel(title, 'sequence length', 'operations', series, log_x=True, log_y=True)

  panels = [
    log_log_panel(title, {layer: _counts_by_length(record, 'forward', counted_quantity).items()
                  for layer, record in in_first_implementation.items()})
    for title, counted_quantity in FIGURE_QUANTITIES.items()
  ]
  return [*panels, log_log_panel('maximum path length', {
    layer: [(path['length'], path['operations']) for path in record['result']['paths']
            if path['operations'] is not None]
    for layer, record in in_first_implementation.items()})]


def log_log_slopes_over_length(record: dict, counted_quantity: str) -> list[float]:
  """Slopes of log(count) over log(length) between adjacent sequence lengths.

  The counted quantity is 'operations' or 'layers' of a path, or any count of a program of the
  forward phase, such as 'products' or 'depth'.
  """
  if counted_quantity in ('operations', 'layers'):
    counts = {path['length']: path[counted_quantity] for path in record['result']['paths']}
    by_length = {n: math.inf if count is None else count for n, count in counts.items()}
  else:
    by_length = _counts_by_length(record, 'forward', counted_quantity)
  return [log_log_slope(dict(pair)) for pair in itertools.pairwise(sorted(by_length.items()))]
