"""The schema of records with the measured durations and memory sizes of layers.

The schema requires the fields that tables and claims evaluate.
"""

import dataclasses

from experiments.lab.results.schema import (
  STATUSES,
  Anything,
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

POSITIVE, SIZE, FIELD = Number(1e-30), Integer(1), Nullable(Integer(1))
QUANTITY = Choice(('train', 'forward', 'layer', 'layer_gradient', 'generate', 'repeat'))


# The module cells/timing.py writes these fields.
POINT = Fields({
  'layer': Text(), 'length': SIZE, 'quantity': QUANTITY, 'tokens': SIZE,
  'status': Choice(STATUSES), 'reason': Text(), 'bytes': Nullable(Integer()),
  'operations': Nullable(Integer()), 'compile_seconds': Nullable(POSITIVE),
  'seconds': ListOf(POSITIVE),
})


def measurements_match_requested_layers_and_lengths(run: dict, result: dict) -> bool:
  """Whether all measurements are distinct and belong to requested layers and lengths."""
  points = [(p['layer'], p['length'], p['quantity']) for p in result['points']]
  return len(set(points)) == len(points) and all(
    layer in run['layers'] and length in run['lengths'] for layer, length, _ in points)


def measurements_have_same_number_of_rounds(run: dict, result: dict) -> bool:
  """Whether all successful measurements have the same number of timing rounds.

  This number must not exceed the requested number.
  """
  counts = {len(point['seconds']) for point in result['points']} - {0}
  return len(counts) <= 1 and all(count <= run['rounds'] for count in counts)


TIMING = RecordKind(
  'tokens',
  Fields({
    'layers': ListOf(Text(), 1, distinct=True), 'lengths': ListOf(SIZE, 1, distinct=True),
    'quantities': ListOf(QUANTITY, 1, distinct=True),
    'tokens': SIZE, 'rounds': Integer(1, 100_000), 'seed': Integer(), 'device': Text(),
    'settings': Fields({'width': SIZE, 'depth': SIZE, 'match': Text(), 'dtype': Text()}),
  }, {'sequences': SIZE, 'generated': SIZE}),
  Fields({'layers': MapOf(Anything()), 'points': ListOf(POINT)}),
  (
    Constraint(
      'points are distinct, and each has a requested layer and a requested length',
      measurements_match_requested_layers_and_lengths),
    Constraint(
      'all successful measurements have the same number of rounds, at most the requested number',
      measurements_have_same_number_of_rounds),
  ),
  modules=('experiments.lab.cells.timing', 'experiments.lab.tasks.text'),
)
GENERATING = dataclasses.replace(
  TIMING, run=TIMING.run.with_additional_required_fields({'sequences': SIZE, 'generated': SIZE}))
