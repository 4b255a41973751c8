"""The schema of the records that hold the operation counts of a layer."""

from experiments.lab.results.schema import (
  Choice,
  Constraint,
  Fields,
  Integer,
  ListOf,
  Nullable,
  RecordKind,
  Text,
)
from experiments.lab.results.timing_schema import FIELD, SIZE

PHASES = ('forward', 'train', 'generate')
COUNT = Fields({
  'phase': Choice(PHASES), 'length': SIZE, 'width': SIZE, 'option': FIELD,
  **dict.fromkeys(
    ('products', 'elementwise', 'bytes', 'depth', 'logarithmic_depth', 'state_bytes'), Integer()),
})


def has_operation_counts_at_two_sequence_lengths(run: dict, result: dict) -> bool:
  """Whether each phase has counts at two lengths or more, as the fit of a growth law requires.

  Only counts at the first width and the original kernel or window size are considered.
  """
  option = result['option'] and result['option']['value']
  lengths = {phase: {
    count['length'] for count in result['counts']
    if (count['phase'], count['width'], count['option']) == (phase, run['widths'][0], option)
  } for phase in PHASES}
  return all(len(counted) > 1 for counted in lengths.values())


def kernel_size_is_recorded_iff_layer_has_one(run: dict, result: dict) -> bool:
  """Whether counts include a kernel or window size if and only if the layer has one."""
  return all((count['option'] is None) == (result['option'] is None) for count in result['counts'])


def has_max_path_length_at_two_sequence_lengths(run: dict, result: dict) -> bool:
  """Whether the maximum path length is recorded for at least two sequence lengths."""
  return len({path['length'] for path in result['paths']}) > 1


COUNTING = RecordKind(
  'platform',
  Fields({'layer': Text(), 'platform': Text(), 'widths': ListOf(SIZE, 1)}),
  Fields({
    'option': Nullable(Fields({'name': Text(), 'value': SIZE})), 'receptive_field': FIELD,
    'counts': ListOf(COUNT),
    'paths': ListOf(Fields({
      'length': SIZE, 'layers': Integer(), 'operations': Nullable(Integer()),
    })),
  }),
  (
    Constraint('each phase is counted at two lengths or more',
               has_operation_counts_at_two_sequence_lengths),
    Constraint('the option of each count is null if and only if that of the layer is null',
               kernel_size_is_recorded_iff_layer_has_one),
    Constraint('path lengths are computed at two lengths or more',
               has_max_path_length_at_two_sequence_lengths),
  ),
  modules=('experiments.complexity.layer_counts',),
)
