"""Schemas of stored gradient norms, measured at initialisation or during training."""

import dataclasses

from experiments.lab.results.schema import Constraint, Fields, Integer, ListOf, RecordKind, Text
from experiments.lab.results.training_schema import (
  FIELD,
  NORM,
  SIZE,
  TRAINING,
  has_matrix_shape,
  is_ascending,
)

NORM_FIELDS = {
  'distances': ListOf(Integer(), 1), 'norms': ListOf(ListOf(NORM)),
  'spectral_norms': ListOf(ListOf(NORM)),
}


def has_all_gradient_norms(measurement: dict, num_ensemble_members: int) -> bool:
  """Whether each ensemble member has a Frobenius norm and a spectral norm at every distance."""
  distances = measurement['distances']
  return distances[0] == 0 and is_ascending(distances) and all(
    has_matrix_shape(measurement[name], num_ensemble_members, len(distances))
    for name in ('norms', 'spectral_norms'))


UNTRAINED_NORMS = RecordKind(
  'at',
  Fields({
    'at': Text(), 'layer': Text(), 'length': SIZE, 'width': SIZE, 'depth': SIZE, 'block': Text(),
    'seeds': ListOf(Integer(), 1, distinct=True),
  }),
  Fields({'receptive_field': FIELD, **NORM_FIELDS}),
  (Constraint(
    'there are two norms for each seed at each distance',
    lambda run, result: has_all_gradient_norms(result, len(run['seeds']))),),
  modules=('experiments.gradient_flow.gradient_norms',),
)
EVALUATION = Fields({'step': Integer(), **NORM_FIELDS})
TRAINING_NORMS = dataclasses.replace(
  TRAINING,
  result=TRAINING.result.with_additional_required_fields({'watched': ListOf(EVALUATION, 1)}),
  constraints=(*TRAINING.constraints, Constraint(
    'there are two norms for each ensemble member at each distance',
    lambda run, result: all(
      has_all_gradient_norms(evaluation, len(result['members']))
      for evaluation in result['watched']))),
  modules=('experiments.lab.cells.training', 'experiments.gradient_flow.gradient_norms'),
)
