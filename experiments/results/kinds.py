"""The schema of records: what every one has, and what each kind of cell needs besides.

Each study stores the kinds of cells that are listed in `STUDIES`, which are told apart by a setting
of their runs. A study that is not listed may store any run and any result.
"""

from experiments.results.measured import AHEAD, CONTEST, COUNTING, GENERATING, TIMING
from experiments.results.schema import (
  STATUSES,
  Choice,
  Fields,
  List,
  Misfit,
  Number,
  Table,
  Text,
  Whole,
)
from experiments.results.trained import STACK, START, TRAINING, WATCHED_FIELD, WATCHED_FLOW

# Settings that the page and the claims read of any run that has them.
SHARED = {
  'layer': Text(), 'layers': List(Text()), 'seed': Whole(),
  'seeds': List(Whole(), 1, distinct=True),
}
RECORD = Fields({
  'study': Text('[A-Za-z0-9_]+'),
  'run': Fields({}, SHARED),
  'status': Choice(STATUSES),
  'reason': Text(),
  'result': Fields({}),
  'seconds': Number(0),
  'device': Text(),
  'versions': Table(Text(), fewest=1),
  'commit': Text(),
})
STUDIES = {
  **dict.fromkeys(
    ('retention', 'state_tracking', 'bottleneck', 'translation', 'variations', 'pronouns'),
    (TRAINING,)),
  'ladder': (TRAINING, TIMING),
  'gradient_flow': (WATCHED_FLOW, START),
  'receptive_field': (WATCHED_FIELD, STACK),
  'parallelism': (GENERATING,),
  'complexity': (COUNTING, GENERATING),
  'speed': (CONTEST,),
  'compile_tpu': (AHEAD,),
}


def check(record: dict) -> None:
  """Raise a Misfit for a record that does not have what its kind of cell needs."""
  RECORD.check(record, 'record')
  kinds = STUDIES.get(record['study'])
  if kinds:
    marked = [kind for kind in kinds if kind.mark in record['run']]
    if len(marked) != 1:
      marks = ', '.join(kind.mark for kind in kinds)
      raise Misfit(f'run: a cell of {record["study"]} has one of the settings {marks}')
    marked[0].check(record)
