"""What the records of receptive fields must have: of stacks, and of cells that train."""

import dataclasses

from experiments.lab.results.schema import Fields, Kind, Law, List, Text, Whole
from experiments.lab.results.trained import FIELD, NORM, SIZE, TRAINING, shaped

SEEN = {'shown': List(Whole(), 1), 'effective': List(NORM), 'spread': List(NORM),
        'energy': List(List(NORM))}


def seen(kept: dict, members: int) -> bool:
  """Whether there is a field for each member, and equally many lags."""
  return all(len(kept[name]) == members for name in ('shown', 'effective', 'spread')) and shaped(
    kept['energy'], members)


STACK = Kind(
  'sequences',
  Fields({
    'layer': Text(), 'depth': SIZE, 'block': Text(), 'sequences': SIZE,
    'seeds': List(Whole(), 1, distinct=True),
  }),
  Fields({'declared': FIELD, 'length': SIZE, **SEEN}),
  (Law('there is a field for each seed', lambda run, result: seen(result, len(run['seeds']))),),
  cells=('experiments.receptive_field.fields',),
)
WATCHED_FIELD = dataclasses.replace(
  TRAINING,
  result=TRAINING.result.requiring(watched=List(Fields({'step': Whole(), **SEEN}), 1)),
  laws=(*TRAINING.laws, Law('there is a field for each member', (
    lambda run, result: all(seen(look, len(result['members'])) for look in result['watched'])))),
  cells=('experiments.lab.cells.training', 'experiments.receptive_field.fields'),
)
