"""What the records of programs compiled for chips that are elsewhere must have."""

from experiments.lab.results.measured import SIZE
from experiments.lab.results.schema import (
  STATUSES,
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

PROGRAM = Fields({
  'part': Text(), 'name': Text(), 'status': Choice(STATUSES), 'reason': Text(),
  'arguments': Maybe(Whole()), 'temporary': Maybe(Whole()), 'kernels': Maybe(Whole()),
  'collectives': Table(List(Whole(), 2, 2)),
})


def known_whole(run: dict, result: dict) -> bool:
  """Whether the arguments of each program are known exactly if its temporary memory is."""
  return all((one['arguments'] is None) == (one['temporary'] is None)
             for one in result['programs'])


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
  (Law('what a program takes is known as a whole or not at all', known_whole),),
  cells=('experiments.compile_tpu.programs',),
)
