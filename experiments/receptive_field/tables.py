"""What records of receptive fields say: declared and shown, effective, and recall around the edge.

A record is of one of two kinds: of a stack as it was initialised (its run has no task), or of a
trained cell whose field was watched. Effective fields are by seed; a trained cell's are those of
the members at the chosen rate.
"""

import math
from collections.abc import Sequence

from experiments.lab.results import scores
from experiments.lab.results.figures import Panel
from experiments.lab.results.scoreboard import told_apart, value_of
from experiments.lab.results.statistics import Interval, growth_exponent, mean_interval
from experiments.lab.results.table import Table


def report(records: list[dict]):
  """The study's tables and panels."""
  initialised, trained = split(records)
  tables = []
  if initialised:
    tables.append(declared_table(initialised))
  if groups := by_depth(initialised):
    tables.append(growth_table(groups))
  for question, group in questions(trained).items():
    tables += [recall_table(question, group), training_table(question, group)]
  return tables, panels(initialised, trained)


def split(records: Sequence[dict]) -> tuple[list[dict], list[dict]]:
  """The records of stacks that have a result, and those of trained cells; each kind in order."""
  known = [record for record in records if record['result']]
  stacks = [record for record in known if 'task' not in record['run']]
  trained = [record for record in known if 'task' in record['run']]
  return (
    sorted(stacks, key=lambda r: (layer_of(r), r['run']['depth'])),
    sorted(trained, key=lambda r: (
      r['result']['receptive_field'] or math.inf, name_of(r), r['result']['distance'])),
  )


def questions(trained: Sequence[dict]) -> dict[str, list[dict]]:
  """The cells of each question; those that differ in more than stack and distance stand apart."""
  groups: dict[str, dict] = {}
  for record in trained:
    setting = {k: str(v) for k, v in record['run'].items() if k not in ('layer', 'depth', 'task')}
    same = groups.setdefault(record['result']['title'], {})
    same.setdefault(tuple(setting.items()), (setting, []))[1].append(record)
  return {
    name: group for title, same in groups.items()
    for name, group in told_apart(title, list(same.values()))
  }


def layer_of(record: dict) -> str:
  """The layer, with its shell where that is not the usual one."""
  run = record['run']
  return run['layer'] + ('' if run['block'] == 'pre_norm' else f', {run["block"]} block')


def name_of(record: dict) -> str:
  """The stack, as its depth times its layer."""
  return f'{record["run"]["depth"]} x {layer_of(record)}'


def agrees(record: dict) -> bool:
  """Whether a stack's Jacobian shows what it declares; without a bound, all that was read."""
  result = record['result']
  return max(result['shown']) == (result['declared'] or result['length'])


def shares(record: dict) -> list[float]:
  """The effective part of a stack's declared field, by seed."""
  result = record['result']
  return [size / (result['declared'] or result['length']) for size in result['effective']]


def by_depth(stacks: Sequence[dict]) -> dict[str, list[dict]]:
  """Layers with a bound that stand at three depths or more -> their records by depth."""
  groups: dict[tuple, list[dict]] = {}
  for record in stacks:
    if record['result']['declared']:
      same = tuple((k, str(v)) for k, v in record['run'].items() if k != 'depth')
      groups.setdefault(same, []).append(record)
  deep = (sorted(g, key=lambda r: r['run']['depth']) for g in groups.values() if len(g) > 2)
  return {layer_of(group[0]): group for group in deep}


def exponents(group: Sequence[dict], quantity: str) -> list[float]:
  """With what power of the depth a quantity grows, by seed."""
  depths = [record['run']['depth'] for record in group]
  seeds = zip(*(record['result'][quantity] for record in group), strict=True)
  return [growth_exponent(depths, [one]).mean for one in seeds]


def watched(record: dict, quantity: str, look: int) -> list:
  """A quantity of the chosen members at a look, by seed; the first look is before training."""
  members = record['result']['members']
  places = [members.index(member) for member in scores.chosen(record)]
  return [record['result']['watched'][look][quantity][place] for place in places]


def inside(record: dict) -> bool:
  """Whether what a trained cell is asked for lies in its field."""
  field = record['result']['receptive_field']
  return field is None or record['result']['distance'] < field


def just_inside(trained: Sequence[dict]) -> list[dict]:
  """Of each model with an edge, the record at its longest distance before it."""
  found: dict[str, dict] = {}
  for record in sorted(trained, key=lambda r: r['result']['distance']):
    if record['result']['receptive_field'] and inside(record) and record['result'].get('watched'):
      found[name_of(record)] = record
  return list(found.values())


def declared_table(stacks: Sequence[dict]) -> Table:
  """A row a stack: what it declares, what its Jacobian shows, how much of it is effective."""
  rows = [
    (
      name_of(record), record['result']['declared'], max(record['result']['shown']),
      agrees(record), mean_interval(record['result']['effective']),
      mean_interval(shares(record)), mean_interval(record['result']['spread']),
    )
    for record in stacks
  ]
  return Table(
    'Receptive fields at the start',
    ('stack', 'declared', 'shown', 'equal', 'effective', 'part of the field', 'spread'),
    rows,
    'Tokens. Shown: the farthest input with an entry of the Jacobian of the last output that is '
    'not zero. Effective: the lags where the gradient is over 4.55 % of its peak (Luo et al. '
    "2016), which a dilation's gaps never are; spread: the lag's standard deviation. Mean over "
    "seeds with Student's 95 % interval. A dash: no bound is declared, and all that was read must "
    'be seen.',
  )


def growth_table(groups: dict[str, list[dict]]) -> Table:
  """A row a layer: the powers of the depth with which its fields grow."""
  rows = []
  for layer, group in groups.items():
    depths = [record['run']['depth'] for record in group]
    declared = growth_exponent(depths, [[record['result']['declared'] for record in group]])
    grown = (mean_interval(exponents(group, quantity)) for quantity in ('effective', 'spread'))
    rows.append((layer, ', '.join(map(str, depths)), declared.mean, *grown))
  return Table(
    'Receptive fields against depth',
    ('layer', 'depths', 'declared', 'effective', 'spread'),
    rows,
    'Powers of the depth, fitted for each seed. The classic shell has no residuals: there the '
    'spread of random weights grows with the root of the depth (Luo et al. 2016), power 0.5.',
  )


def recall_table(question: str, trained: Sequence[dict]) -> Table:
  """A row a model, a column a distance; what stands beyond the field must be chance."""
  distances = sorted({record['result']['distance'] for record in trained})
  rows: dict[str, dict] = {}
  for record in trained:
    row = rows.setdefault(name_of(record), {'field': record['result']['receptive_field']})
    row[record['result']['distance']] = value_of(record)
  first = trained[0]['result']
  return Table(
    f'Around the edge of the field: {question}',
    ('model', 'field', *map(str, distances)),
    [
      *((name, *(row.get(key) for key in ('field', *distances))) for name, row in rows.items()),
      ('(chance)', None, *[first['chance']] * len(distances)),
    ],
    f'{first["metric"].capitalize()} by distance. At a distance that is the field or more, none '
    "of what is asked for is in it. Test split, mean over seeds with Student's 95 % interval, at "
    'the learning rate that is best on the validation split.',
    references=1,
  )


def training_table(question: str, trained: Sequence[dict]) -> Table:
  """A row a trained cell: its effective field before and after, and the gradient's spread."""
  rows = [
    (
      name_of(record), record['result']['receptive_field'], record['result']['distance'],
      *(
        mean_interval(watched(record, quantity, look))
        for quantity in ('effective', 'spread') for look in (0, -1)
      ),
    )
    for record in trained if record['result'].get('watched')
  ]
  return Table(
    f'Effective fields before and after training: {question}',
    ('model', 'field', 'distance', 'effective before', 'after', 'spread before', 'spread after'),
    rows,
    'Tokens, as at the start, for the embedded tokens of the test split. Of the members at the '
    'chosen rate, before the first step and when the last of them stopped.',
  )


def panels(stacks: Sequence[dict], trained: Sequence[dict]) -> list[Panel]:
  """Effective fields against depth; recall against distance over field, in training, by lag."""
  drawn = [depth_panel(by_depth(stacks))]
  for question, group in questions(trained).items():
    edge = just_inside(group)
    drawn += recall_panel(question, group), steps_panel(edge), *map(lag_panel, edge)
  return [panel for panel in drawn if panel.series]


def recall_panel(question: str, trained: Sequence[dict]) -> Panel:
  """The metric against distance in fields: it falls at 1."""
  series: dict[str, list] = {}
  for record in trained:
    field = record['result']['receptive_field']
    if field and record['status'] == 'finished':
      point = record['result']['distance'] / field, scores.metric_interval(record)
      series.setdefault(name_of(record), []).append(point)
  first = trained[0]['result']
  return Panel(
    question, 'distance / field', first['metric'], series, lines={'chance': first['chance']}
  )


def depth_panel(groups: dict[str, list[dict]]) -> Panel:
  """Effective fields of the layers at the most depths, with those that are declared."""
  series: dict[str, list] = {}
  most = max(map(len, groups.values()), default=0)
  for layer, group in groups.items():
    if len(group) == most:
      found = [(record['run']['depth'], record['result']) for record in group]
      series[layer] = [(depth, mean_interval(result['effective'])) for depth, result in found]
      series[f'{group[0]["run"]["layer"]}, declared'] = [
        (depth, Interval.bare(result['declared'])) for depth, result in found
      ]
  return Panel('effective field', 'depth', 'tokens', series, log_x=True)


def steps_panel(edge: Sequence[dict]) -> Panel:
  """How the gradient spreads in training, at the longest distance inside of each field."""
  series = {
    name_of(record): [
      (look['step'], mean_interval(watched(record, 'spread', place)))
      for place, look in enumerate(record['result']['watched'])
    ]
    for record in edge
  }
  return Panel('spread in training', 'step', 'tokens', series)


def lag_panel(record: dict) -> Panel:
  """The squared gradient by lag before and after training, up to the edge of the field."""
  result = record['result']
  series = {
    when: [
      (lag, mean_interval(parts))
      for lag, parts in enumerate(zip(*watched(record, 'energy', look), strict=True))
      if lag < result['receptive_field']
    ]
    for when, look in (('before training', 0), ('after training', -1))
  }
  axis = f'lag (depth {record["run"]["depth"]}, asked for: {result["distance"]})'
  return Panel(layer_of(record), axis, 'part of squared gradient', series)
