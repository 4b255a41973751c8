"""What records of programs must have: their times, their counts, and what becomes of them.

Each kind stands with the module that writes it; what it needs is what tables and claims read.
"""

import dataclasses

from experiments.lab.results.schema import (
  STATUSES,
  Anything,
  Choice,
  Fields,
  Kind,
  Law,
  List,
  Maybe,
  Number,
  Table,
  Text,
  Whole,
)

POSITIVE, SIZE, FIELD = Number(1e-30), Whole(1), Maybe(Whole(1))


# Times: cells/timing.py.
POINT = Fields({
  'layer': Text(), 'length': SIZE, 'quantity': Choice(('train', 'forward', 'generate', 'repeat')),
  'tokens': SIZE, 'status': Choice(STATUSES), 'reason': Text(), 'bytes': Maybe(Whole()),
  'seconds': List(POSITIVE),
})


def timed_once(run: dict, result: dict) -> bool:
  """Whether each point is of the run's layers and lengths, and of no other point's."""
  points = [(p['layer'], p['length'], p['quantity']) for p in result['points']]
  return len(set(points)) == len(points) and all(
    layer in run['layers'] and length in run['lengths'] for layer, length, _ in points)


def same_rounds(run: dict, result: dict) -> bool:
  """Whether points have equally many times, no more than there were rounds, or none."""
  counts = {len(point['seconds']) for point in result['points']} - {0}
  return len(counts) <= 1 and all(count <= run['rounds'] for count in counts)


TIMING = Kind(
  'tokens',
  Fields({
    'layers': List(Text(), 1, distinct=True), 'lengths': List(SIZE, 1, distinct=True),
    'tokens': SIZE, 'rounds': Whole(1, 100_000), 'seed': Whole(), 'device': Text(),
    'settings': Fields({'width': SIZE, 'depth': SIZE, 'match': Text(), 'dtype': Text()}),
  }, {'sequences': SIZE, 'generated': SIZE}),
  Fields({'layers': Table(Anything()), 'points': List(POINT)}),
  (
    Law('each point is of a layer and a length of the run, once', timed_once),
    Law('points have equally many times, no more than there are rounds', same_rounds),
  ),
  cells=('experiments.lab.cells.timing', 'experiments.lab.tasks.text'),
)
GENERATING = dataclasses.replace(
  TIMING, run=TIMING.run.requiring(sequences=SIZE, generated=SIZE))
