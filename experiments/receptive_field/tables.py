"""Tables and figure panels of declared, measured and effective receptive fields.

A record is that of an untrained stack, whose run has no task, or that of a trained model with the
field statistics of its evaluations. Effective fields are by seed. Those of a trained model belong
to the members at the selected learning rate.
"""

import math
from collections.abc import Sequence

from experiments.lab.results import scores
from experiments.lab.results.figures import Panel
from experiments.lab.results.scoreboard import (
  label_columns_by_differing_settings,
  test_metric_or_status,
)
from experiments.lab.results.statistics import Interval, growth_exponent, mean_interval
from experiments.lab.results.table import Table


def report(records: list[dict]):
  """The tables and figure panels of the receptive fields of untrained and trained models."""
  untrained, trained_records = split_untrained_and_trained(records)
  tables = []
  if untrained:
    tables.append(receptive_field_table(untrained))
  if groups := group_stacks_by_layer(untrained):
    tables.append(_table_of_growth_with_depth(groups))
  for task, group in _group_by_task_and_settings(trained_records).items():
    tables += [_table_of_scores_around_field_edge(task, group), _effective_field_table(task, group)]
  return tables, _receptive_field_panels(untrained, trained_records)


def split_untrained_and_trained(records: Sequence[dict]) -> tuple[list[dict], list[dict]]:
  """Returns the sorted records of untrained stacks and of trained models, without failed runs."""
  with_result = [record for record in records if record['result']]
  untrained = [record for record in with_result if 'task' not in record['run']]
  trained_records = [record for record in with_result if 'task' in record['run']]
  return (
    sorted(untrained, key=lambda r: (_layer_name(r), r['run']['depth'])),
    sorted(trained_records, key=lambda r: (
      r['result']['receptive_field'] or math.inf, _stack_name(r), r['result']['distance'])),
  )


def _group_by_task_and_settings(trained_records: Sequence[dict]) -> dict[str, list[dict]]:
  """Groups records of trained models by task, and by training settings where these differ."""
  groups: dict[str, dict] = {}
  for record in trained_records:
    setting = {k: str(v) for k, v in record['run'].items() if k not in ('layer', 'depth', 'task')}
    same = groups.setdefault(record['result']['title'], {})
    same.setdefault(tuple(setting.items()), (setting, []))[1].append(record)
  return {
    name: group for title, same in groups.items()
    for name, group in label_columns_by_differing_settings(title, list(same.values()))
  }


def _layer_name(record: dict) -> str:
  """The name of a record's layer, with its residual block unless the block is `pre_norm`."""
  run = record['run']
  return run['layer'] + ('' if run['block'] == 'pre_norm' else f', {run["block"]} block')


def _stack_name(record: dict) -> str:
  """The depth and the layer of a record as text, such as `2 x tcn`."""
  return f'{record["run"]["depth"]} x {_layer_name(record)}'


def measured_equals_declared(record: dict) -> bool:
  """Whether the measured receptive field equals the declared one.

  A stack with an unbounded field must have a measured field of the input length.
  """
  result = record['result']
  return max(result['measured']) == (result['declared'] or result['length'])


def effective_field_fractions(record: dict) -> list[float]:
  """The ratio of the effective to the declared receptive field of a stack, for each seed."""
  result = record['result']
  return [size / (result['declared'] or result['length']) for size in result['effective']]


def group_stacks_by_layer(stacks: Sequence[dict]) -> dict[str, list[dict]]:
  """Records of each layer with a bounded receptive field and with at least three depths."""
  groups: dict[tuple, list[dict]] = {}
  for record in stacks:
    if record['result']['declared']:
      same = tuple((k, str(v)) for k, v in record['run'].items() if k != 'depth')
      groups.setdefault(same, []).append(record)
  by_depth = (sorted(g, key=lambda r: r['run']['depth']) for g in groups.values() if len(g) > 2)
  return {_layer_name(group[0]): group for group in by_depth}


def depth_growth_exponents(stacks: Sequence[dict], statistic: str) -> list[float]:
  """Power-law exponents of a receptive-field statistic as a function of depth, for each seed."""
  depths = [record['run']['depth'] for record in stacks]
  by_seed = zip(*(record['result'][statistic] for record in stacks), strict=True)
  return [growth_exponent(depths, [values]).estimate for values in by_seed]


def statistic_at_evaluation(record: dict, statistic: str, evaluation: int) -> list:
  """A receptive-field statistic of a trained model at one evaluation, for each seed.

  The learning rate is the best on the validation split.

  Args:
    record: the record of a trained model.
    statistic: the name of the statistic, one of `effective`, `spread` and `energy`.
    evaluation: the index of the evaluation, 0 before training and -1 after training.

  Returns:
    The values in the order of the seeds. An energy is a list over lags.

  """
  members = record['result']['members']
  indices = [members.index(member) for member in scores.results_at_best_learning_rate(record)]
  values = record['result']['watched'][evaluation][statistic]
  return [values[index] for index in indices]


def is_distance_within_field(record: dict) -> bool:
  """Whether the task distance in tokens is within the receptive field of the trained model."""
  field = record['result']['receptive_field']
  return field is None or record['result']['distance'] < field


def records_at_field_edge(trained_records: Sequence[dict]) -> list[dict]:
  """The record of each trained model at the longest distance within its receptive field."""
  longest: dict[str, dict] = {}
  for record in sorted(trained_records, key=lambda r: r['result']['distance']):
    result = record['result']
    if result['receptive_field'] and is_distance_within_field(record) and result.get('watched'):
      longest[_stack_name(record)] = record
  return list(longest.values())


def receptive_field_table(stacks: Sequence[dict]) -> Table:
  """Table of declared, measured and effective receptive fields of untrained stacks."""
  rows = [
    (
      _stack_name(record), record['result']['declared'], max(record['result']['measured']),
      measured_equals_declared(record), mean_interval(record['result']['effective']),
      mean_interval(effective_field_fractions(record)), mean_interval(record['result']['spread']),
    )
    for record in stacks
  ]
  return Table(
    'Receptive fields at initialisation',
    ('stack', 'declared field', 'measured field', 'measured equals declared', 'effective field',
     'effective / declared', 'spread'),
    rows,
    'In tokens. Measured: up to the earliest input with a nonzero entry in the Jacobian of the '
    'last output. Effective: the number of lags at which the gradient exceeds 4.55 % of its '
    'maximum (Luo et al. 2016), which excludes the gaps of a dilated kernel. Spread: the standard '
    "deviation of the lag, weighted by the squared gradient. Mean over seeds with Student's 95 % "
    'interval. A dash marks an unbounded field, where the last output must depend on every input.',
  )


def _table_of_growth_with_depth(stacks_by_layer: dict[str, list[dict]]) -> Table:
  """Table of power-law exponents of receptive fields as functions of depth, for each layer."""
  rows = []
  for layer, group in stacks_by_layer.items():
    depths = [record['run']['depth'] for record in group]
    declared = growth_exponent(depths, [[record['result']['declared'] for record in group]])
    intervals = (
      mean_interval(depth_growth_exponents(group, statistic))
      for statistic in ('effective', 'spread'))
    rows.append((layer, ', '.join(map(str, depths)), declared.estimate, *intervals))
  return Table(
    'Growth of receptive fields with depth',
    ('layer', 'depths', 'declared field', 'effective field', 'spread'),
    rows,
    'Exponents of the depth, fitted for each seed. The plain block has no residual connection. '
    'There the spread of a stack with random weights grows with the square root of the depth '
    '(Luo et al. 2016), which is an exponent of 0.5.',
  )


def _table_of_scores_around_field_edge(task: str, trained_records: Sequence[dict]) -> Table:
  """Table of test scores of each model by distance, within and beyond its receptive field."""
  distances = sorted({record['result']['distance'] for record in trained_records})
  rows: dict[str, dict] = {}
  for record in trained_records:
    row = rows.setdefault(_stack_name(record), {'field': record['result']['receptive_field']})
    row[record['result']['distance']] = test_metric_or_status(record)
  first = trained_records[0]['result']
  return Table(
    f'Scores around the edge of the receptive field: {task}',
    ('model', 'receptive field', *map(str, distances)),
    [
      *((name, *(row.get(key) for key in ('field', *distances))) for name, row in rows.items()),
      ('(chance)', None, *[first['chance']] * len(distances)),
    ],
    f'{first["metric"].capitalize()} by distance in tokens. At a distance of the receptive field '
    'or more, none of the symbols to be copied lies within the field. Test split, mean over seeds '
    "with Student's 95 % interval, at the learning rate that is best on the validation split.",
    reference_rows=1,
  )


def _effective_field_table(task: str, trained_records: Sequence[dict]) -> Table:
  """Table of effective receptive fields of trained models, before and after training."""
  rows = [
    (
      _stack_name(record), record['result']['receptive_field'], record['result']['distance'],
      *(
        mean_interval(statistic_at_evaluation(record, statistic, evaluation))
        for statistic in ('effective', 'spread') for evaluation in (0, -1)
      ),
    )
    for record in trained_records if record['result'].get('watched')
  ]
  return Table(
    f'Effective receptive fields before and after training: {task}',
    ('model', 'receptive field', 'distance', 'effective field before training',
     'effective field after training', 'spread before training', 'spread after training'),
    rows,
    'In tokens, for the embedded tokens of the test split. Effective field: the number of lags at '
    'which the gradient exceeds 4.55 % of its maximum. Spread: the standard deviation of the lag, '
    'weighted by the squared gradient. Mean over the seeds at the selected learning rate, '
    'before the first step and after the last.',
  )


def _receptive_field_panels(stacks: Sequence[dict], trained_records: Sequence[dict]) -> list[Panel]:
  """All figure panels of receptive fields, before, during and after training."""
  drawn = [_effective_field_by_depth_panel(group_stacks_by_layer(stacks))]
  for task, group in _group_by_task_and_settings(trained_records).items():
    at_edge = records_at_field_edge(group)
    drawn += _scores_around_field_edge_panel(task, group), _lag_deviation_panel(at_edge)
    drawn += map(_energy_by_lag_panel, at_edge)
  return [panel for panel in drawn if panel.series]


def _scores_around_field_edge_panel(task: str, trained_records: Sequence[dict]) -> Panel:
  """Panel of test scores against the ratio of task distance to receptive field."""
  series: dict[str, list] = {}
  for record in trained_records:
    field = record['result']['receptive_field']
    if field and record['status'] == 'finished':
      point = record['result']['distance'] / field, scores.test_metric_interval(record)
      series.setdefault(_stack_name(record), []).append(point)
  first = trained_records[0]['result']
  return Panel(
    task, 'distance / receptive field', first['metric'], series,
    lines={'chance': first['chance']},
  )


def _effective_field_by_depth_panel(stacks_by_layer: dict[str, list[dict]]) -> Panel:
  """Panel of effective and declared receptive fields against depth.

  Only the layers with the most depths are drawn.
  """
  series: dict[str, list] = {}
  most = max(map(len, stacks_by_layer.values()), default=0)
  for layer, group in stacks_by_layer.items():
    if len(group) == most:
      by_depth = [(record['run']['depth'], record['result']) for record in group]
      series[layer] = [(depth, mean_interval(result['effective'])) for depth, result in by_depth]
      series[f'{group[0]["run"]["layer"]}, declared'] = [
        (depth, Interval.without_bounds(result['declared'])) for depth, result in by_depth
      ]
  return Panel('effective receptive field', 'depth', 'tokens', series, log_x=True)


def _lag_deviation_panel(records: Sequence[dict]) -> Panel:
  """Panel of the spread of gradient energy over lags, against the training step."""
  series = {
    _stack_name(record): [
      (evaluation['step'], mean_interval(statistic_at_evaluation(record, 'spread', index)))
      for index, evaluation in enumerate(record['result']['watched'])
    ]
    for record in records
  }
  return Panel('spread of the gradient in training', 'step', 'tokens', series)


def _energy_by_lag_panel(record: dict) -> Panel:
  """Panel of the squared gradient by lag within the receptive field, before and after training."""
  result, series = record['result'], {}
  for time, evaluation in (('before training', 0), ('after training', -1)):
    by_lag = zip(*statistic_at_evaluation(record, 'energy', evaluation), strict=True)
    series[time] = [(lag, mean_interval(values)) for lag, values in enumerate(by_lag)
                    if lag < result['receptive_field']]
  axis = f'lag in tokens (depth {record["run"]["depth"]}, task distance {result["distance"]})'
  return Panel(_layer_name(record), axis, 'fraction of squared gradient', series)
