"""Tables of what was counted and measured, and the maps of who overtakes whom."""

from collections.abc import Sequence

from experiments.complexity import counts, crossovers, exponents
from experiments.complexity.table_1 import COUNTED, FORMS, PAPER, SYMBOLS
from experiments.lab.results import times


def report(records: Sequence[dict]):
  """Tables of what was counted and measured, and the maps of who overtakes whom."""
  counted = [r for r in records if 'platform' in r['run'] and r['status'] == 'finished']
  timed = times.grids(filter(times.is_timed, records))
  tables, panels, alone = [], [], len(timed) == 1
  if counted:
    names = {counting: name for name, counting in COUNTED.items()}
    tables += counts.tables(counted, names, PAPER, FORMS, SYMBOLS)
    panels += counts.panels(counted, names, FORMS)
  for grid in timed:
    orders = {name: said[1] for name, said in PAPER.items()}
    if len(grid[0]['run']['lengths']) > 1:
      tables.append(exponents.table(grid, orders, alone))
    if len(grid[0]['run']['layers']) > 1:
      tables.append(crossovers.sentences(grid, alone))
      panels += crossovers.panels(grid, alone)
  return tables, panels
