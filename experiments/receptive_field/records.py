"""Schemas of the stored receptive fields of layer stacks before and during training."""

import dataclasses

from experiments.lab.results.schema import Constraint, Fields, Integer, ListOf, RecordKind, Text
from experiments.lab.results.training_schema import FIELD, NORM, SIZE, TRAINING, has_matrix_shape

FIELD_STATISTICS = {
  'measured': ListOf(Integer(), 1), 'effective': ListOf(NORM), 'spread': ListOf(NORM),
  'energy': ListOf(ListOf(NORM)),
}
EVALUATION = Fields({'step': Integer(), **FIELD_STATISTICS})


def has_all_statistics(measurement: dict, num_ensemble_members: int) -> bool:
  """Whether every ensemble member has all receptive-field statistics.

  All members must have the same number of squared gradient norms.
  """
  return has_matrix_shape(measurement['energy'], num_ensemble_members) and all(
    len(measurement[name]) == num_ensemble_members for name in ('measured', 'effective', 'spread'))


UNTRAINED_FIELDS = RecordKind(
  'sequences',
  Fields({
    'layer': Text(), 'depth': SIZE, 'block': Text(), 'sequences': SIZE,
    'seeds': ListOf(Integer(), 1, distinct=True),
  }),
  Fields({'theoretical': FIELD, 'length': SIZE, **FIELD_STATISTICS}),
  (Constraint('there is a receptive field for each seed', lambda run, result: has_all_statistics(
    result, len(run['seeds']))),),
  modules=('experiments.receptive_field.field_measurement',),
)
TRAINING_FIELDS = dataclasses.replace(
  TRAINING,
  result=TRAINING.result.with_additional_required_fields({'watched': ListOf(EVALUATION, 1)}),
  constraints=(*TRAINING.constraints, Constraint(
    'there is a receptive field for each ensemble member', lambda run, result: all(
      has_all_statistics(evaluation, len(result['members'])) for evaluation in result['watched']))),
  modules=('experiments.lab.cells.training', 'experiments.receptive_field.field_measurement'),
)
