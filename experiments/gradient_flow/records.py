"""What the records of gradients must have: at initialisation, and in cells that train."""

import dataclasses

from experiments.lab.results.schema import Fields, Kind, Law, List, Text, Whole
from experiments.lab.results.trained import FIELD, NORM, SIZE, TRAINING, ascending, shaped

FLOW = {'distances': List(Whole(), 1), 'norms': List(List(NORM)), 'stretches': List(List(NORM))}


def flows(kept: dict, members: int) -> bool:
  """Whether there are norms of each member at all distances, from 0 on."""
  distances = kept['distances']
  return distances[0] == 0 and ascending(distances) and all(
    shaped(kept[name], members, len(distances)) for name in ('norms', 'stretches'))


START = Kind(
  'at',
  Fields({
    'at': Text(), 'layer': Text(), 'length': SIZE, 'width': SIZE, 'depth': SIZE, 'block': Text(),
    'seeds': List(Whole(), 1, distinct=True),
  }),
  Fields({'receptive_field': FIELD, **FLOW}),
  (Law('there is a norm for each seed at each distance', lambda run, result: flows(
    result, len(run['seeds']))),),
  cells=('experiments.gradient_flow.flow',),
)
WATCHED_FLOW = dataclasses.replace(
  TRAINING,
  result=TRAINING.result.requiring(watched=List(Fields({'step': Whole(), **FLOW}), 1)),
  laws=(*TRAINING.laws, Law('there is a norm for each member at each distance', (
    lambda run, result: all(flows(look, len(result['members'])) for look in result['watched'])))),
  cells=('experiments.lab.cells.training', 'experiments.gradient_flow.flow'),
)
