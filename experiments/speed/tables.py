"""Ratios of time as a table of all comparisons, and as panels against the size."""

from collections.abc import Iterable, Mapping, Sequence

from experiments.lab.results.figures import Panel
from experiments.lab.results.store import canonical
from experiments.lab.results.table import Table
from experiments.speed import OURS, ratios
from experiments.speed.comparison import TITLES, Comparison, Target, title

MEBI, GIGA = 2**20, 1e9
ORDER = ('steps', 'length', 'batch', 'width')  # of the rows of one kind
AXES = {'length': 'sequence length', 'batch': 'batch'}  # of a panel, the first that varies
VARIED = ('what', 'sizes', 'timed', 'seed')
COLUMNS = (
  'what', 'against', 'forward', 'with gradient', 'must', 'aim', 'kept', '% of peak', 'MiB',
  'their MiB',
)
LARGE_PAGES = 'glibc.malloc.hugetlb=1'
LEGEND = (
  'ratios of medians of the same rounds, with 95 % intervals; below 1, ours is faster. Sizes: '
  'batch B, length T, width D, heads H of width K, kernel k, dilation d, L layers; x8: eight '
  'gradient steps in one compiled loop; w32: the last 32 tokens are written, the others '
  'are read. All but forward alone is of forward and gradient, where there is one; must and aim '
  'are for two CPU cores, and the temporaries (MiB, a device) of attention at T8192 are to stay '
  'below 95.'
)


def target(
  stated: Sequence[Comparison], what: str, sizes: Mapping[str, int], rival: str
) -> Target | None:
  """What is to be reached in a comparison, as the first of those that are stated says."""
  return next(
    (
      one.targets[rival] for one in stated
      if (one.what, dict(one.sizes)) == (what, dict(sizes)) and rival in one.targets
    ),
    None,
  )


def report(stated: Sequence[Comparison], records: Iterable[dict]) -> tuple[list, list]:
  """A table, and panels; each device and each grid among the records gets its own.

  Args:
    stated: comparisons that say what is to be reached.
    records: of repetitions of comparisons.

  """
  grids: dict[str, list[dict]] = {}
  for record in records:
    shared = {name: value for name, value in record['run'].items() if name not in VARIED}
    grids.setdefault(canonical(shared), []).append(record)
  tables, drawn = [], []
  for group in grids.values():
    comparisons: dict[str, list[dict]] = {}
    for record in group:
      what = [record['run'][name] for name in ('what', 'sizes', 'timed')]
      comparisons.setdefault(canonical(what), []).append(record)
    ordered = sorted(comparisons.values(), key=place)
    tables.append(table(stated, ordered, alone=len(grids) == 1))
    drawn += panels(ordered)
  return tables, drawn


def place(records: Sequence[dict]) -> tuple:
  """Where a comparison stands: in the order of TITLES, then by its sizes."""
  run, known = records[0]['run'], list(TITLES)
  rank = known.index(run['what']) if run['what'] in known else len(known)
  return rank, [run['sizes'].get(name, 0) for name in ORDER]


def table(stated: Sequence[Comparison], comparisons: Sequence[Sequence[dict]], alone: bool):
  """A row a rival; `alone`: the title needs no more to tell."""
  shared = comparisons[0][0]['run']
  where = '' if alone else (
    f', {shared["rounds"]} rounds on {shared["device"]} as {shared["devices"]}, '
    + (f'PyTorch {shared["torch"]}' if shared['torch'] else 'no PyTorch')
    + ('' if shared['large_pages'] else ', small pages')
  )
  rows = [row for records in comparisons for row in rows_of(stated, records)]
  return Table(f'Speed: our time over theirs{where}', COLUMNS, rows, caption(comparisons))


def rows_of(stated: Sequence[Comparison], records: Sequence[dict]) -> list[tuple]:
  """The rows of a comparison."""
  def mebibytes(name):
    planned = ratios.temporaries(records, name)
    return None if planned is None else planned / MEBI

  run, rows = records[0]['run'], []
  cpu = records[0]['result'].get('platform') == 'cpu'
  part = ratios.share(records, 'gradient')
  for rival in ratios.rivals(records) or [None]:
    forward, gradient = (ratios.ratio(records, rival, what) for what in ('forward', 'gradient'))
    reached = forward if gradient is None else gradient
    goal = target(stated, run['what'], run['sizes'], rival) if cpu else None
    rows.append((
      title(run['what'], run['sizes']), rival, forward, gradient,
      *(goal or (None, None)), verdict(reached, goal),
      part, mebibytes(OURS), mebibytes(rival),
    ))
  return rows


def verdict(reached, goal: Target | None) -> str | None:
  """Which of a comparison's targets its estimate keeps."""
  if reached is None or goal is None:
    return None
  return 'aim' if reached.mean <= goal.aim else 'must' if reached.mean <= goal.must else 'missed'


def caption(comparisons: Sequence[Sequence[dict]]) -> str:
  """On what, how often, what the columns are; and why there are dashes."""
  records = [record for group in comparisons for record in group]
  run, repetitions = records[0]['run'], len({record['run']['seed'] for record in records})
  peaks = sorted(ratios.speed(best) for record in records if (best := ratios.peak(record)))
  notes = [
    f'{run["device"]}, devices to JAX: {run["devices"]}, rounds: {run["rounds"]}, '
    f'repetitions: {repetitions}; {LEGEND}',
    *([f'Peak: {peaks[len(peaks) // 2] / GIGA:,.0f} GFLOP/s in float32 matrix products of the same '
       'rounds; a share of it counts matrix products alone.'] if peaks else []),
  ]
  if not run['large_pages'] and any(r['result'].get('platform') == 'cpu' for r in records):
    notes.append(f'GLIBC_TUNABLES={LARGE_PAGES} was not set: page faults slow what XLA does here.')
  for record in records:
    named = title(record['run']['what'], record['run']['sizes'])
    if not record['result']:
      notes.append(f'{named}: {record["status"]}, {record["reason"]}.')
    for one in record['result'].get('contestants', ()):
      if one['status'] == 'left out':
        notes.append(f'{one["reason"]}.')
      elif one['status'] != 'finished':
        why = one['reason'] or 'no times'
        notes.append(f'{named}, {one["name"]}: {one["status"]}, {why}.')
  return ' '.join(dict.fromkeys(notes))


def panels(comparisons: Sequence[Sequence[dict]]) -> list:
  """Ratios of forward and gradient against the size that a kind of comparison is made at."""
  drawn = []
  for what, name in TITLES.items():
    group = [records for records in comparisons if records[0]['run']['what'] == what]
    for size, axis in AXES.items():
      series: dict[str, list] = {}
      for records in group:
        sizes = records[0]['run']['sizes']
        for rival in ratios.rivals(records) if size in sizes else ():
          if (reached := ratios.ratio(records, rival, 'gradient')) is not None:
            series.setdefault(rival, []).append((sizes[size], reached))
      if len({x for points in series.values() for x, _ in points}) > 1:
        drawn.append(Panel(
          name, axis, 'our time / theirs', series, log_x=True, log_y=True, lines={'same': 1.0}))
        break
  return drawn
