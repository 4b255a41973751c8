"""What the records of comparisons of speed must have."""

from experiments.lab.results.measured import POSITIVE, SIZE
from experiments.lab.results.schema import (
  STATUSES,
  Choice,
  Fields,
  Flag,
  Kind,
  List,
  Maybe,
  Number,
  Table,
  Text,
  Whole,
)

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
  cells=('experiments.speed.contest',),
)
