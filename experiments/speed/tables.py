"""Table of the time ratios of all comparisons, and figures of the ratios against size."""

from collections.abc import Iterable, Mapping, Sequence

from experiments.lab.results.figures import Panel
from experiments.lab.results.store import canonical_json
from experiments.lab.results.table import Table
from experiments.speed import OURS, ratios
from experiments.speed.comparison import (
  COMPUTATIONS,
  TITLES,
  Comparison,
  Target,
  comparison_title,
)

MEBI, GIGA = 2**20, 1e9
ROW_ORDER = ('steps', 'length', 'batch', 'width')  # sizes that sort the rows of one benchmark
AXES = {'length': 'sequence length', 'batch': 'batch size'}  # a panel uses the first that varies
VARIED = ('benchmark', 'sizes', 'timed', 'seed')
COLUMNS = (
  'benchmark', 'alternative', 'computation', 'ratio', 'required', 'desired', 'target met',
  '% of peak', 'MiB', 'MiB, alternative',
)
LARGE_PAGES = 'glibc.malloc.hugetlb=1'
LEGEND = (
  'Ratios of median times from interleaved rounds, the time of this repository divided by the time '
  'of the alternative, with 95 % intervals. A value below 1 means that this repository is faster. '
  'Sizes: batch B, length T, width D, heads H of width K, state size N, kernel k, dilation d, '
  'L blocks, x8 for eight gradient steps in one compiled loop, g32 for 32 generated tokens after a '
  'prompt of the other tokens. The required and desired ratios apply to two CPU cores. MiB is the '
  'temporary memory per device of the last computation of a comparison, of this repository and of '
  'the alternative. Attention at T8192 must use less than 95 MiB.'
)


def select_time_ratio_targets(
  comparisons: Sequence[Comparison], benchmark: str, sizes: Mapping[str, int],
  other_implementation: str,
) -> Target | None:
  """Returns two upper limits on our time divided by another implementation's time.

  The first limit is required, and the second is desired.

  Args:
    comparisons: Comparisons of the presets.
    benchmark: Name of the benchmark.
    sizes: Sizes of the benchmark.
    other_implementation: Name of the other implementation.

  Returns:
    The upper limits of the first matching comparison, or None if no comparison matches.

  """
  return next(
    (
      comparison.targets[other_implementation] for comparison in comparisons
      if (comparison.benchmark, dict(comparison.sizes)) == (benchmark, dict(sizes))
      and other_implementation in comparison.targets
    ),
    None,
  )


def report(comparisons: Sequence[Comparison], records: Iterable[dict]) -> tuple[list, list]:
  """Returns tables and figure panels, separate for each device and combination of settings.

  `comparisons` provide the targets, and `records` are repetitions of comparisons.
  """
  grids: dict[str, list[dict]] = {}
  for record in records:
    shared = {name: value for name, value in record['run'].items() if name not in VARIED}
    grids.setdefault(canonical_json(shared), []).append(record)
  tables, panels = [], []
  for group in grids.values():
    repetitions: dict[str, list[dict]] = {}
    for record in group:
      compared = [record['run'][name] for name in ('benchmark', 'sizes', 'timed')]
      repetitions.setdefault(canonical_json(compared), []).append(record)
    ordered = sorted(repetitions.values(), key=sort_key_of_comparison)
    tables.append(speed_table(comparisons, ordered, include_run_settings=len(grids) > 1))
    panels += time_ratio_panels(ordered)
  return tables, panels


def sort_key_of_comparison(records: Sequence[dict]) -> tuple:
  """Returns a key that sorts comparisons by the order of benchmarks in TITLES, then by size."""
  run, titles = records[0]['run'], list(TITLES)
  rank = titles.index(run['benchmark']) if run['benchmark'] in titles else len(titles)
  return rank, [run['sizes'].get(name, 0) for name in ROW_ORDER]


def speed_table(
  comparisons: Sequence[Comparison],
  records_by_comparison: Sequence[Sequence[dict]],
  include_run_settings: bool,
) -> Table:
  """Makes the table of times relative to alternative implementations, for one device.

  Args:
    comparisons: Comparisons that provide the targets.
    records_by_comparison: Groups of records, where a group has all repetitions of a comparison.
    include_run_settings: Whether the title includes the run settings, because records differ in
      them.

  Returns:
    The table, with one row per benchmark, alternative implementation and computation.

  """
  run = records_by_comparison[0][0]['run']
  settings = '' if not include_run_settings else (
    f', {run["rounds"]} rounds on {run["device"]} as {run["devices"]} JAX devices, '
    + (f'PyTorch {run["torch"]}' if run['torch'] else 'without PyTorch')
    + ('' if run['large_pages'] else ', without large pages')
  )
  rows = [
    row for records in records_by_comparison for row in comparison_table_rows(comparisons, records)]
  title = f'Speed: time of this repository / time of the alternative{settings}'
  return Table(title, COLUMNS, rows, speed_table_caption(records_by_comparison))


def comparison_table_rows(
  comparisons: Sequence[Comparison], records: Sequence[dict]
) -> list[tuple]:
  """Makes the table rows of one comparison, one per alternative implementation and computation."""
  def temporary_memory_mib(implementation):
    planned = ratios.temporary_memory_bytes(records, implementation)
    return None if planned is None else planned / MEBI

  run, rows = records[0]['run'], []
  on_cpu = records[0]['result'].get('platform') == 'cpu'
  computations = ratios.timed_computations(records) or [None]
  for other_implementation in ratios.names_of_alternative_implementations(records) or [None]:
    memory = temporary_memory_mib(OURS), temporary_memory_mib(other_implementation)
    target = None
    if on_cpu:
      target = select_time_ratio_targets(
        comparisons, run['benchmark'], run['sizes'], other_implementation)
    for computation in computations:
      ratio = ratios.median_time_ratio(records, other_implementation, computation)
      limits = target if target and computation in (None, *target.computations) else None
      rows.append((
        comparison_title(run['benchmark'], run['sizes']), other_implementation,
        COMPUTATIONS.get(computation), ratio, *(limits[:2] if limits else (None, None)),
        classify_time_ratio(ratio, limits), ratios.percent_of_peak_rate(records, computation),
        *(memory if computation == computations[-1] else (None, None)),
      ))
  return rows


def classify_time_ratio(ratio, target: Target | None) -> str | None:
  """Returns 'desired' or 'required', the name of the strictest target that a time ratio meets.

  Returns 'missed' if the ratio meets neither target, and None without a ratio or a target.
  """
  if ratio is None or target is None:
    return None
  if ratio.estimate <= target.desired:
    return 'desired'
  return 'required' if ratio.estimate <= target.required else 'missed'


def speed_table_caption(records_by_comparison: Sequence[Sequence[dict]]) -> str:
  """Describes the device, its peak FLOP/s and the table columns, and explains missing values."""
  records = [record for group in records_by_comparison for record in group]
  run, repetitions = records[0]['run'], len({record['run']['seed'] for record in records})
  peaks = sorted(
    ratios.operations_per_second(product)
    for record in records if (product := ratios.timing_of_fastest_matrix_product(record))
  )
  notes = [
    f'{run["device"]}, JAX devices: {run["devices"]}, rounds: {run["rounds"]}, '
    f'repetitions: {repetitions}. {LEGEND}',
  ]
  if peaks:
    notes.append(
      f'Peak rate: {peaks[len(peaks) // 2] / GIGA:,.0f} GFLOP/s, measured in the same rounds with '
      'large float32 matrix products. % of peak counts only the operations of matrix products.')
  if not run['large_pages'] and any(r['result'].get('platform') == 'cpu' for r in records):
    notes.append(f'GLIBC_TUNABLES={LARGE_PAGES} was not set, so page faults slow down XLA.')
  for record in records:
    title = comparison_title(record['run']['benchmark'], record['run']['sizes'])
    if not record['result']:
      notes.append(f'{title}: {record["status"]}, {record["reason"]}.')
    for entry in record['result'].get('implementations', ()):
      if entry['status'] == 'left out':
        notes.append(f'{entry["reason"]}.')
      elif entry['status'] != 'finished':
        reason = entry['reason'] or 'no round was timed'
        notes.append(f'{title}, {entry["name"]}: {entry["status"]}, {reason}.')
  return ' '.join(dict.fromkeys(notes))


def time_ratio_panels(records_by_comparison: Sequence[Sequence[dict]]) -> list:
  """Makes a figure panel per benchmark, with time ratios against sequence length or batch size."""
  panels = []
  for benchmark, title in TITLES.items():
    same = [
      records for records in records_by_comparison
      if records[0]['run']['benchmark'] == benchmark]
    for size, axis in AXES.items():
      series: dict[str, list] = {}
      for records in same:
        sizes = records[0]['run']['sizes']
        if size not in sizes:
          continue
        for implementation in ratios.names_of_alternative_implementations(records):
          if (ratio := ratios.median_time_ratio(records, implementation, 'gradient')) is not None:
            series.setdefault(implementation, []).append((sizes[size], ratio))
      if len({x for points in series.values() for x, _ in points}) > 1:
        panels.append(Panel(
          title, axis, 'time / time of the alternative', series, log_x=True, log_y=True,
          lines={'equal': 1.0}))
        break
  return panels
