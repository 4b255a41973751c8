"""Tables of operation counts and measured times, and heat maps that compare costs of layers."""

from collections.abc import Sequence

from experiments.complexity import count_tables, crossovers, exponents
from experiments.complexity.table_1 import COUNTED, IMPLEMENTATIONS, PAPER, SYMBOLS
from experiments.lab.results import times


def report(records: Sequence[dict]):
  """Returns tables and figures of all operation counts and of each grid of measured durations."""
  counted = [r for r in records if 'platform' in r['run'] and r['status'] == 'finished']
  timed = times.group_records_differing_only_in_seed(filter(times.is_timing_record, records))
  tables, panels, include_run_settings = [], [], len(timed) > 1
  if counted:
    names = {counted_form: name for name, counted_form in COUNTED.items()}
    tables += count_tables.operation_count_tables(counted, names, PAPER, IMPLEMENTATIONS, SYMBOLS)
    panels += count_tables.operation_count_panels(counted, names, IMPLEMENTATIONS)
  for grid in timed:
    orders = {name: published[1] for name, published in PAPER.items()}
    if len(grid[0]['run']['lengths']) > 1:
      tables.append(exponents.exponent_table(grid, orders, include_run_settings))
    if len(grid[0]['run']['layers']) > 1:
      tables.append(crossovers.crossover_table(grid, include_run_settings))
      panels += crossovers.crossover_heat_maps(grid, include_run_settings)
  return tables, panels
