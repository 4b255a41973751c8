"""Schema of the records of speed benchmarks."""

from experiments.lab.results.schema import (
  STATUSES,
  Boolean,
  Choice,
  Fields,
  Integer,
  ListOf,
  MapOf,
  Nullable,
  Number,
  RecordKind,
  Text,
)
from experiments.lab.results.timing_schema import POSITIVE, SIZE

IMPLEMENTATION = Fields({
  'name': Text(), 'status': Choice((*STATUSES, 'left out')), 'reason': Text(),
  'bytes': Nullable(Integer()), 'seconds': MapOf(ListOf(POSITIVE)),
})
BENCHMARK_RECORD = RecordKind(
  'benchmark',
  Fields({
    'benchmark': Text(), 'sizes': MapOf(Integer()), 'timed': Boolean(), 'seed': Integer(),
    'rounds': SIZE, 'torch': Text(), 'large_pages': Boolean(), 'devices': SIZE, 'device': Text(),
  }),
  Fields({
    'platform': Text(), 'matmul_flops': MapOf(Number(0)),
    'implementations': ListOf(IMPLEMENTATION, 1),
    'peak': ListOf(Fields({'flops': POSITIVE, 'seconds': ListOf(POSITIVE, 1)})),
  }),
  modules=('experiments.speed.benchmark',),
)
