"""What records of models must have: those that train, and those that are only initialised.

Each kind stands with the module that writes it; what it needs is what tables and claims read.
"""

import itertools
import sys

from experiments.lab.results.schema import (
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

MEASURED = Number(finite=False)  # NaN and infinity are what diverged
NORM = Number(0, finite=False)
SETTING = Number(0, sys.float_info.max)  # which a run can be told
RATE = Number(5e-324, sys.float_info.max)
SIZE, FIELD = Whole(1), Maybe(Whole(1))
MATRIX = List(List(Number()))


def ascending(values: list) -> bool:
  """Whether numbers grow strictly."""
  return all(a < b for a, b in itertools.pairwise(values))


def shaped(rows: list[list], height: int, width: int | None = None) -> bool:
  """Whether there are `height` rows, of `width` values each or of equally many."""
  widths = {len(row) for row in rows}
  return len(rows) == height and (widths == {width} if width is not None else len(widths) == 1)


# Training: cells/training.py, cells/artifacts.py, training/loop.py.
MEMBER = Fields({
  'seed': Whole(), 'learning_rate': RATE, 'steps': Whole(),
  'status': Choice(('finished', 'solved', 'diverged', 'timeout')),
  'test': MEASURED, 'test_loss': MEASURED, 'extrapolation': List(MEASURED),
}, {'extrapolation_loss': List(MEASURED), 'validation': MEASURED, 'validation_loss': MEASURED})
WRITTEN = Fields({
  'distance': SIZE, 'source_length': List(SIZE, 1), 'source': List(Text()),
  'reference': List(Text()), 'answers': Table(List(Text())), 'blind_loss': Number(),
  'tokens': Number(0),
}, {'cut_off': Table(Whole()), 'left_out': Table(Whole())})
ALIGNMENT = Fields({'source': List(Text(), 1), 'target': List(Text(), 1), 'layers': Table(MATRIX)})
LOOKS = Fields({'distance': SIZE, 'tokens': SIZE, 'heads': Table(List(Number()))})


def each_once(run: dict, result: dict) -> bool:
  """Whether there is one member for each seed at each rate, those of the chosen rate included."""
  members = [(member['seed'], member['learning_rate']) for member in result['members']]
  asked = itertools.product(run['seeds'], run['learning_rates'])
  return sorted(members) == sorted(asked) and result['learning_rate'] in run['learning_rates']


def tested_everywhere(run: dict, result: dict) -> bool:
  """Whether each member has a metric for every other distance, or none at all."""
  counts = {len(member.get(name, ())) for member in result['members']
            for name in ('extrapolation', 'extrapolation_loss')}
  return counts <= {0, len(result['extrapolation'])}


def answered(run: dict, result: dict) -> bool:
  """Whether every seed that wrote at all answered every source, at every distance."""
  parts = result.get('written', ())
  if not parts:
    return True
  return len(parts) == 1 + len(result['extrapolation']) and all(
    {len(part[name]) for name in ('source', 'reference')} == {len(part['source_length'])}
    and set(part['answers']) == set(parts[0]['answers'])
    and all(len(texts) == len(part['source']) for texts in part['answers'].values())
    for part in parts
  )


def aligned(run: dict, result: dict) -> bool:
  """Whether alignments have a row for each target token and a column for each source token."""
  return all(
    shaped(weights, len(one['target']), len(one['source']))
    for one in result.get('alignments', ()) for weights in one['layers'].values()
  )


TRAINING = Kind(
  'task',
  Fields({
    'layer': Text(), 'task': Text(), 'seeds': List(Whole(), 1, distinct=True),
    'learning_rates': List(RATE, 1, distinct=True), 'steps': SIZE, 'width': SIZE,
    'depth': SIZE, 'block': Text(), 'clip': SETTING,
  }),
  Fields({
    'family': Text(), 'title': Text(), 'axis': Text(), 'distance': SIZE, 'metric': Text(),
    'perfect': Number(), 'chance': Number(), 'settings': Fields({}, {'target': Text()}),
    'controls': Table(MEASURED), 'receptive_field': FIELD, 'state_bytes': Whole(),
    'extrapolation': List(Fields({'distance': SIZE, 'chance': Number()})), 'width': SIZE,
    'parameters': SIZE, 'budget': FIELD, 'learning_rate': RATE, 'members': List(MEMBER, 1),
  }, {
    'written': List(WRITTEN), 'alignments': List(ALIGNMENT), 'step_flops': Whole(),
    'looks': List(LOOKS),
  }),
  (
    Law('the oracle and chance score differently', lambda run, result: all(
      chance != result['perfect']
      for chance in (result['chance'], *(there['chance'] for there in result['extrapolation'])))),
    Law('there is one member for each seed at each learning rate', each_once),
    Law('a member is tested at every distance or at none but its own', tested_everywhere),
    Law('every seed answers every source', answered),
    Law('an alignment has a weight for each pair of tokens', aligned),
    Law('what was written comes with the work of a step and with losses', lambda run, result: (
      not result.get('written') or ('step_flops' in result and all(
        'extrapolation_loss' in member for member in result['members'])))),
  ),
  cells=('experiments.lab.cells.training',),
)
