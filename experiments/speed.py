"""Is it fast? Ratios of time: what the lab computes, against others' forms of the same.

  python -m experiments.speed --preset=quick --compare=lstm,attention --runs=runs/quick

Ours and theirs take turns in one process on one machine, after they were found to compute the same:
forward, and forward with the gradient of all that went in. Below 1, ours is the faster one. Theirs
are Flax's layers and `jax.nn` as their users take them, plain loops, and PyTorch where it is
installed (the extra `bench`) and runs on the device that JAX runs on. A CPU is one device to
PyTorch, which has its threads, and one a core to all that is written in JAX. Large matrix products
take turns with them all, so that a time is also a share of what this machine can do.

A cell is one repetition of one comparison. Finished cells are stored, and skipped next time; the
device is part of what a cell is stored under, and so is PyTorch's version.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags as absl_flags

from experiments.launch import flags

STUDY = 'speed'
MEBI, GIGA = 2**20, 1e9
TITLES = {
  'lstm': 'LSTM',
  'gru': 'GRU',
  'attention': 'causal attention',
  'recurrence': 'diagonal recurrence',
  'ssd': 'SSD',
  'gated_delta_rule': 'gated delta rule',
  'convolution': 'convolution',
  'decoder': 'decoder',
  'generation': 'greedy decoding',
}
LETTERS = {
  'batch': 'B', 'length': 'T', 'width': 'D', 'heads': 'H', 'head_width': 'K', 'kernel': 'k',
  'dilation': 'd', 'depth': 'L', 'steps': 'x', 'written': 'w',
}
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


class Target(NamedTuple):
  """A ratio of forward and backward that must be kept, and the one that is aimed at."""

  must: float
  aim: float


@dataclasses.dataclass(frozen=True)
class Comparison:
  """What is compared, at which sizes, and what is to be reached against which rival."""

  what: str
  sizes: Mapping[str, int]
  targets: Mapping[str, Target] = dataclasses.field(default_factory=dict)
  timed: bool = True  # or compiled only, for its memory


@dataclasses.dataclass(frozen=True)
class Preset:
  """Comparisons, the sizes of the products that show the peak, rounds (`steps`) and seeds."""

  comparisons: tuple[Comparison, ...]
  peak: tuple[int, ...]
  settings: Mapping[str, Any]


FLAX_LSTM, TORCH_LSTM, TORCH_GRU = (
  'flax RNN(OptimizedLSTMCell)', 'torch.nn.LSTM', 'torch.nn.GRU')
TORCH_ATTENTION, JAX_ATTENTION = 'torch fused attention', 'jax.nn.dot_product_attention'
LOOP, RECURRENT = 'lax.scan, batch first', 'the recurrent form'
TORCH_CONVOLUTION, TORCH_DECODER = 'torch conv1d', 'torch eager, fused AdamW'
AGAIN = 'the whole prefix again'


def tokens(batch: int, length: int, **sizes: int) -> dict[str, int]:
  """Sizes of sequences."""
  return {'batch': batch, 'length': length, **sizes}


def heads(batch: int, length: int) -> dict[str, int]:
  """Sizes of sequences in heads."""
  return tokens(batch, length, heads=4, head_width=32)


KERNEL = {'width': 128, 'kernel': 3, 'dilation': 4}
DECODER = tokens(32, 256, width=128, depth=2, heads=4)

PRESETS = {
  # Every line that `paper` goes through, in the least time.
  'smoke': Preset(
    comparisons=(
      Comparison('lstm', tokens(2, 6, width=4), {FLAX_LSTM: Target(1.0, 0.7)}),
      Comparison('gru', tokens(2, 6, width=4)),
      Comparison('attention', tokens(1, 8, heads=2, head_width=4)),
      Comparison('attention', tokens(1, 16, heads=2, head_width=4)),
      Comparison('attention', tokens(1, 32, heads=2, head_width=4), timed=False),
      Comparison('recurrence', tokens(2, 8, width=4)),
      Comparison('ssd', tokens(1, 16, heads=2, head_width=4)),
      Comparison('gated_delta_rule', tokens(1, 16, heads=2, head_width=4)),
      Comparison('convolution', tokens(2, 8, width=4, kernel=2, dilation=2)),
      Comparison('convolution', tokens(2, 8, width=4, kernel=2, dilation=2, steps=2)),
      Comparison('decoder', tokens(2, 8, width=8, depth=1, heads=2)),
      Comparison('decoder', tokens(2, 8, width=8, depth=1, heads=2, steps=2)),
      Comparison('generation', tokens(2, 8, width=8, depth=1, heads=2, written=3)),
    ),
    peak=(32, 64),
    settings={'steps': 2, 'seeds': (0,)},
  ),
  # The whole story at sizes for two CPU cores: about three minutes.
  'quick': Preset(
    comparisons=(
      *(
        Comparison('lstm', tokens(batch, 128, width=128), {
          FLAX_LSTM: against_flax, TORCH_LSTM: Target(1.6, 1.2)})
        for batch, against_flax in ((8, Target(0.7, 0.4)), (32, Target(1.0, 0.7)))
      ),
      *(
        Comparison('gru', tokens(batch, 128, width=128), {TORCH_GRU: Target(0.6, 0.3)})
        for batch in (8, 32)
      ),
      *(
        Comparison('attention', heads(8192 // length, length), {
          TORCH_ATTENTION: Target(1.1, 0.8), **others})
        for length, others in (
          (512, {}), (1024, {}), (2048, {JAX_ATTENTION: Target(0.25, 0.12)}))
      ),
      Comparison('attention', heads(1, 8192), timed=False),
      Comparison('recurrence', tokens(32, 256, width=128), {LOOP: Target(0.7, 0.3)}),
      *(
        Comparison(what, heads(4096 // length, length), {RECURRENT: target})
        for what, target in (('ssd', Target(0.3, 0.15)), ('gated_delta_rule', Target(0.6, 0.25)))
        for length in (256, 1024)
      ),
      Comparison('convolution', tokens(32, 256, **KERNEL), {TORCH_CONVOLUTION: Target(0.8, 0.6)}),
      Comparison('convolution', tokens(32, 256, **KERNEL, steps=8), {
        TORCH_CONVOLUTION: Target(1.4, 1.0)}),
      Comparison('decoder', DECODER, {TORCH_DECODER: Target(1.0, 0.75)}),
      Comparison('decoder', DECODER | {'steps': 8}, {TORCH_DECODER: Target(1.0, 0.75)}),
      Comparison('generation', tokens(8, 256, width=64, depth=2, heads=4, written=32), {
        AGAIN: Target(0.1, 0.05)}),
    ),
    peak=(1024, 2048),
    settings={'steps': 7, 'seeds': (0,)},
  ),
  # Sizes that fill a GPU.
  'paper': Preset(
    comparisons=(
      *(
        Comparison(what, tokens(batch, 512, width=1024))
        for what in ('lstm', 'gru') for batch in (32, 256)
      ),
      *(
        Comparison('attention', tokens(65536 // length, length, heads=16, head_width=64))
        for length in (512, 1024, 2048, 4096)
      ),
      Comparison('attention', tokens(1, 32768, heads=16, head_width=64), timed=False),
      Comparison('recurrence', tokens(64, 1024, width=1024)),
      *(
        Comparison(what, tokens(65536 // length, length, heads=16, head_width=64))
        for what in ('ssd', 'gated_delta_rule') for length in (256, 1024, 4096)
      ),
      Comparison('convolution', tokens(64, 1024, width=1024, kernel=3, dilation=4)),
      Comparison('convolution', tokens(64, 1024, width=1024, kernel=3, dilation=4, steps=8)),
      Comparison('decoder', tokens(64, 512, width=512, depth=6, heads=8)),
      Comparison('decoder', tokens(64, 512, width=512, depth=6, heads=8, steps=8)),
      Comparison('generation', tokens(64, 512, width=512, depth=6, heads=8, written=256)),
    ),
    peak=(2048, 4096, 8192),
    settings={'steps': 20, 'seeds': (0, 1, 2)},
  ),
}


def define() -> None:
  """The study's flags."""
  flags.define_study(
    PRESETS,
    steps='Timed rounds of a repetition; --seeds is how many repetitions there are.',
    lengths='Means nothing here: a comparison has its sizes.',
  )
  absl_flags.DEFINE_string(
    'compare', None,
    f'Comparisons to make, separated by commas: {", ".join(TITLES)}. Default: all.',
  )


def grid() -> list:
  """The cells that the flags ask for, one a repetition of a comparison."""
  import jax

  from experiments.contests import pytorch
  from experiments.launch import environment
  from experiments.launch.errors import BadInput, no_such
  from experiments.launch.grid import Cell
  from experiments.launch.run import Run

  preset = flags.preset(PRESETS)
  recipe = {field.name for field in dataclasses.fields(Run)} - {'steps', 'seeds'}
  for name in sorted({'layers', 'lengths', 'parallel', *recipe}):
    if name in flags.FLAGS and flags.given(name):
      raise BadInput(f'--{name} means nothing here: comparisons have their sizes in the preset')
  chosen = flags.FLAGS.compare.split(',') if flags.given('compare') else list(TITLES)
  for name in chosen:
    if name not in TITLES:
      raise no_such('comparison', name, TITLES)
  run = flags.make_run(**preset.settings | flags.settings())
  shared = {
    'peak': list(preset.peak),
    'rounds': run.steps,
    'torch': pytorch.version(),
    'devices': jax.device_count(),
    'large_pages': LARGE_PAGES in os.environ.get('GLIBC_TUNABLES', ''),
    'device': environment.device(),
  }
  return [
    Cell(
      STUDY,
      shared | {
        'what': one.what, 'sizes': dict(one.sizes), 'timed': one.timed, 'seed': seed},
      title(one.what, one.sizes),
    )
    for seed in run.seeds for one in preset.comparisons if one.what in chosen
  ]


def title(what: str, sizes: Mapping[str, int]) -> str:
  """A comparison in a few words."""
  known = (f'{LETTERS[name]}{sizes[name]}' for name in LETTERS if name in sizes)
  return ' '.join([TITLES.get(what, what), *known])


def target(what: str, sizes: Mapping[str, int], rival: str) -> Target | None:
  """What is to be reached in a comparison, whichever preset states it."""
  return next(
    (
      one.targets[rival]
      for preset in PRESETS.values() for one in preset.comparisons
      if (one.what, dict(one.sizes)) == (what, dict(sizes)) and rival in one.targets
    ),
    None,
  )


def report(records: Iterable[dict]) -> tuple[list, list]:
  """A table, and panels; each device and each grid among the records gets its own."""
  from experiments.results.store import canonical

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
    tables.append(table(ordered, alone=len(grids) == 1))
    drawn += panels(ordered)
  return tables, drawn


def place(records: Sequence[dict]) -> tuple:
  """Where a comparison stands: in the order of TITLES, then by its sizes."""
  run, known = records[0]['run'], list(TITLES)
  rank = known.index(run['what']) if run['what'] in known else len(known)
  return rank, [run['sizes'].get(name, 0) for name in ORDER]


def table(comparisons: Sequence[Sequence[dict]], alone: bool):
  """A row a rival; `alone`: the title needs no more to tell."""
  from experiments.results.table import Table

  shared = comparisons[0][0]['run']
  where = '' if alone else (
    f', {shared["rounds"]} rounds on {shared["device"]} as {shared["devices"]}, '
    + (f'PyTorch {shared["torch"]}' if shared['torch'] else 'no PyTorch')
    + ('' if shared['large_pages'] else ', small pages')
  )
  rows = [row for records in comparisons for row in rows_of(records)]
  return Table(f'Speed: our time over theirs{where}', COLUMNS, rows, caption(comparisons))


def rows_of(records: Sequence[dict]) -> list[tuple]:
  """The rows of a comparison."""
  from experiments.results import ratios

  def mebibytes(name):
    planned = ratios.temporaries(records, name)
    return None if planned is None else planned / MEBI

  run, rows = records[0]['run'], []
  cpu = records[0]['result'].get('platform') == 'cpu'
  part = ratios.share(records, 'gradient')
  for rival in ratios.rivals(records) or [None]:
    forward, gradient = (ratios.ratio(records, rival, what) for what in ('forward', 'gradient'))
    reached = forward if gradient is None else gradient
    goal = target(run['what'], run['sizes'], rival) if cpu else None
    rows.append((
      title(run['what'], run['sizes']), rival, forward, gradient,
      *(goal or (None, None)), verdict(reached, goal),
      part, mebibytes(ratios.OURS), mebibytes(rival),
    ))
  return rows


def verdict(reached, goal: Target | None) -> str | None:
  """Which of a comparison's targets its estimate keeps."""
  if reached is None or goal is None:
    return None
  return 'aim' if reached.mean <= goal.aim else 'must' if reached.mean <= goal.must else 'missed'


def caption(comparisons: Sequence[Sequence[dict]]) -> str:
  """On what, how often, what the columns are; and why there are dashes."""
  from experiments.results import ratios

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
  from experiments.results import ratios
  from experiments.results.figures import Panel

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


def main() -> None:
  """Measures the grid's missing cells, prints the table and saves it with its figure."""
  from experiments.contests import computations, contest
  from experiments.launch import environment
  from experiments.launch import grid as grids
  from experiments.results import publish
  from experiments.results.store import Store

  environment.prepare(flags.FLAGS.host_devices, flags.FLAGS.cache)
  cells, store = grid(), Store(flags.FLAGS.runs)
  measure = contest.execute(computations.CONTESTS, flags.FLAGS.timeout)
  records = grids.launch(cells, measure, store, flags.FLAGS.retry)
  publish.study(STUDY, *report(records), flags.FLAGS.runs)


if __name__ == '__main__':
  flags.main(main, define, __doc__)
