"""What the records of counted layers must have."""

from experiments.lab.results.measured import FIELD, SIZE
from experiments.lab.results.schema import Choice, Fields, Kind, Law, List, Maybe, Text, Whole

PHASES = ('forward', 'train', 'generate')
COUNT = Fields({
  'phase': Choice(PHASES), 'length': SIZE, 'width': SIZE, 'option': FIELD,
  **dict.fromkeys(
    ('products', 'elementwise', 'bytes', 'depth', 'logarithmic_depth', 'state_bytes'), Whole()),
})


def counted_along(run: dict, result: dict) -> bool:
  """Whether each phase is counted at two lengths at least, at the first width and own option."""
  own = result['option'] and result['option']['value']
  lengths = {phase: {
    count['length'] for count in result['counts']
    if (count['phase'], count['width'], count['option']) == (phase, run['widths'][0], own)
  } for phase in PHASES}
  return all(len(known) > 1 for known in lengths.values())


def same_option(run: dict, result: dict) -> bool:
  """Whether counts have an option exactly if the layer has one."""
  return all((count['option'] is None) == (result['option'] is None) for count in result['counts'])


def paths_along(run: dict, result: dict) -> bool:
  """Whether paths are counted at two lengths at least."""
  return len({path['length'] for path in result['paths']}) > 1


COUNTING = Kind(
  'platform',
  Fields({'layer': Text(), 'platform': Text(), 'widths': List(SIZE, 1)}),
  Fields({
    'option': Maybe(Fields({'name': Text(), 'value': SIZE})), 'receptive_field': FIELD,
    'counts': List(COUNT),
    'paths': List(Fields({'length': SIZE, 'layers': Whole(), 'operations': Maybe(Whole())})),
  }),
  (
    Law('each phase is counted at two lengths or more', counted_along),
    Law('counts have the option that the layer has', same_option),
    Law('paths are counted at two lengths or more', paths_along),
  ),
  cells=('experiments.complexity.counting',),
)
