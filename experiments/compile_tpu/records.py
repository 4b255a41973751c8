"""Schema of the records of programs that are compiled for a TPU topology."""

from experiments.lab.results.schema import (
  STATUSES,
  Choice,
  Constraint,
  Fields,
  Integer,
  ListOf,
  MapOf,
  Nullable,
  Number,
  RecordKind,
  Text,
)
from experiments.lab.results.timing_schema import SIZE

PROGRAM = Fields({
  'part': Text(), 'name': Text(), 'status': Choice(STATUSES), 'reason': Text(),
  'arguments': Nullable(Integer()), 'temporary': Nullable(Integer()),
  'kernels': Nullable(Integer()), 'collectives': MapOf(ListOf(Integer(), 2, 2)),
})


def each_program_has_all_memory_sizes_or_none(run: dict, result: dict) -> bool:
  """Whether each program states both its argument and its temporary memory size, or neither."""
  return all((program['arguments'] is None) == (program['temporary'] is None)
             for program in result['programs'])


AOT_PROGRAMS = RecordKind(
  'topology',
  Fields({
    'topology': Text(r'v\w+:\d+(x\d+)+'), 'layer': Text(), 'task': Text(), 'width': SIZE,
    'depth': SIZE, 'batch_size': SIZE, 'dtype': Text(),
  }),
  Fields({
    'chips': SIZE, 'memory': SIZE, 'programs': ListOf(PROGRAM),
    'operations': Fields(dict.fromkeys(('train', 'prompt', 'token'), Number(0))),
  }),
  (Constraint(
    'a program states both its argument and its temporary memory, or neither',
    each_program_has_all_memory_sizes_or_none,
  ),),
  modules=('experiments.compile_tpu.programs',),
)
