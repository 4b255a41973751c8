"""What records of programs must have: their times, their counts, and what becomes of them.

Each kind stands with the module that writes it; what it needs is what tables and claims read.
"""

import dataclasses

from experiments.results.schema import (
  STATUSES,
  Anything,
  Choice,
  Fields,
  Flag,
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


# Times: launch/timing.py.
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
)
GENERATING = dataclasses.replace(
  TIMING, run=TIMING.run.requiring(sequences=SIZE, generated=SIZE))


# Counts: launch/counting.py.
PHASES = ('forward', 'train', 'generate')
COUNT = Fields({
  'phase': Choice(PHASES), 'length': SIZE, 'width': SIZE, 'option': FIELD,
  **dict.fromkeys(
    ('products', 'elementwise', 'bytes', 'depth', 'logarithmic_depth', 'state_bytes'), Whole()),
})


def counted_along(run: dict, result: dict) -> bool:
  """Whether each phase is counted at two lengths at least, at the first width and own option."""
  own = result['option'] and result['option']['value']
  lengths = {phase: {
    count['length'] for count in result['counts']
    if (count['phase'], count['width'], count['option']) == (phase, run['widths'][0], own)
  } for phase in PHASES}
  return all(len(known) > 1 for known in lengths.values())


COUNTING = Kind(
  'platform',
  Fields({'layer': Text(), 'platform': Text(), 'widths': List(SIZE, 1)}),
  Fields({
    'option': Maybe(Fields({'name': Text(), 'value': SIZE})), 'receptive_field': FIELD,
    'counts': List(COUNT),
    'paths': List(Fields({'length': SIZE, 'layers': Whole(), 'operations': Maybe(Whole())})),
  }),
  (
    Law('each phase is counted at two lengths or more', counted_along),
    Law('counts have the option that the layer has', lambda run, result: all(
      (count['option'] is None) == (result['option'] is None) for count in result['counts'])),
    Law('paths are counted at two lengths or more', lambda run, result: (
      len({path['length'] for path in result['paths']}) > 1)),
  ),
)


# Contests: contests/contest.py.
CONTESTANT = Fields({
  'name': Text(), 'status': Choice((*STATUSES, 'left out')), 'reason': Text(),
  'bytes': Maybe(Whole()), 'seconds': Table(List(POSITIVE)),
})
CONTEST = Kind(
  'what',
  Fields({
    'what': Text(), 'sizes': Table(Whole()), 'timed': Flag(), 'seed': Whole(), 'rounds': SIZE,
    'torch': Text(), 'large_pages': Flag(), 'devices': SIZE, 'device': Text(),
  }),
  Fields({
    'platform': Text(), 'work': Table(Number(0)), 'contestants': List(CONTESTANT, 1),
    'peak': List(Fields({'work': POSITIVE, 'seconds': List(POSITIVE, 1)})),
  }),
)


# Programs compiled for chips that are elsewhere: launch/ahead.py.
PROGRAM = Fields({
  'part': Text(), 'name': Text(), 'status': Choice(STATUSES), 'reason': Text(),
  'arguments': Maybe(Whole()), 'temporary': Maybe(Whole()), 'kernels': Maybe(Whole()),
  'collectives': Table(List(Whole(), 2, 2)),
})
AHEAD = Kind(
  'topology',
  Fields({
    'topology': Text(r'v\w+:\d+(x\d+)+'), 'layer': Text(), 'task': Text(), 'width': SIZE,
    'depth': SIZE, 'batch_size': SIZE, 'dtype': Text(),
  }),
  Fields({
    'chips': SIZE, 'memory': SIZE, 'programs': List(PROGRAM),
    'operations': Fields(dict.fromkeys(('train', 'prompt', 'token'), Number(0))),
  }),
  (Law('what a program takes is known as a whole or not at all', lambda run, result: all(
    (one['arguments'] is None) == (one['temporary'] is None) for one in result['programs'])),),
)
