"""Tables and figure panels of theoretical, measured and effective receptive fields.

A record is that of a layer stack at initialisation, whose run has no task, or that of a trained
model with the field statistics of its evaluations. Effective fields are by seed. Those of a trained
model belong to the members at the selected learning rate.
"""

import math
from collections.abc import Sequence

from experiments.lab.results import scores
from experiments.lab.results.figures import Panel
from experiments.lab.results.scoreboard import (
  label_columns_by_differing_settings,
  mean_test_metric_or_status,
)
from experiments.lab.results.statistics import (
  Interval,
  growth_exponent,
  mean_with_confidence_interval,
)
from experiments.lab.results.table import Table


def report(records: list[dict]):
  """The tables and figure panels of the receptive fields of untrained and trained models."""
  untrained, records_of_trained_models = split_untrained_and_trained(records)
  tables = []
  if untrained:
    tables.append(receptive_field_table(untrained))
  if groups := group_stacks_by_layer(untrained):
    tables.append(_table_of_growth_with_depth(groups))
  for task, group in _group_by_task_and_settings(records_of_trained_models).items():
    tables += [
      _table_of_scores_near_receptive_field_boundary(task, group),
      _effective_receptive_field_table(task, group),
    ]
  return tables, _receptive_field_panels(untrained, records_of_trained_models)


def split_untrained_and_trained(records: Sequence[dict]) -> tuple[list[dict], list[dict]]:
  """Returns sorted records of untrained layer stacks and of trained models, without failed runs."""
  with_result = [record for record in records if record['result']]
  untrained = [record for record in with_result if 'task' not in record['run']]
  records_of_trained_models = [record for record in with_result if 'task' in record['run']]
  return (
    sorted(untrained, key=lambda r: (_layer_name(r), r['run']['depth'])),
    sorted(records_of_trained_models, key=lambda r: (
      r['result']['receptive_field'] or math.inf, _layer_stack_label(r), r['result']['distance'])),
  )


def _group_by_task_and_settings(records_of_trained_models: Sequence[dict]) -> dict[str, list[dict]]:
  """Groups records of trained models by task, and by training settings where these differ."""
  groups: dict[str, dict] = {}
  for record in records_of_trained_models:
    setting = {k: str(v) for k, v in record['run'].items() if k not in ('layer', 'depth', 'task')}
    same = groups.setdefault(record['result']['title'], {})
    same.setdefault(tuple(setting.items()), (setting, []))[1].append(record)
  return {
    name: group for title, same in groups.items()
    for name, group in label_columns_by_differing_settings(title, list(same.values()))
  }


def _layer_name(record: dict) -> str:
  """The layer of a record, followed by the type of its residual block unless it is `pre_norm`."""
  run = record['run']
  return run['layer'] + ('' if run['block'] == 'pre_norm' else f', {run["block"]} block')


def _layer_stack_label(record: dict) -> str:
  """The depth and the layer of a record as text, such as `2 x tcn`."""
  return f'{record["run"]["depth"]} x {_layer_name(record)}'


def measured_receptive_field_equals_theoretical(record: dict) -> bool:
  """Whether the measured receptive field equals the theoretical one.

  A stack with an unbounded field must have a measured field of the input length.
  """
  result = record['result']
  return max(result['measured']) == (result['theoretical'] or result['length'])


def ratios_of_effective_to_theoretical_receptive_field(record: dict) -> list[float]:
  """The ratio of the effective to the theoretical receptive field of a stack, for each seed."""
  result = record['result']
  return [size / (result['theoretical'] or result['length']) for size in result['effective']]


def group_stacks_by_layer(records_of_untrained_models: Sequence[dict]) -> dict[str, list[dict]]:
  """Groups records of layer stacks by all settings except depth, and sorts groups by depth.

  The keys are the names of the layers.
  Layers with an unbounded receptive field or with fewer than three measured depths are omitted.
  """
  groups: dict[tuple, list[dict]] = {}
  for record in records_of_untrained_models:
    if record['result']['theoretical']:
      same = tuple((k, str(v)) for k, v in record['run'].items() if k != 'depth')
      groups.setdefault(same, []).append(record)
  by_depth = (sorted(g, key=lambda r: r['run']['depth']) for g in groups.values() if len(g) > 2)
  return {_layer_name(group[0]): group for group in by_depth}


def depth_scaling_exponents(
  records_of_untrained_models: Sequence[dict], receptive_field_statistic: str
) -> list[float]:
  """Power-law exponents of a receptive-field statistic as a function of depth, for each seed."""
  depths = [record['run']['depth'] for record in records_of_untrained_models]
  by_seed = zip(
    *(record['result'][receptive_field_statistic] for record in records_of_untrained_models),
    strict=True)
  return [growth_exponent(depths, [values]).estimate for values in by_seed]


def statistic_at_evaluation(record: dict, statistic: str, evaluation_index: int) -> list:
  """A receptive-field statistic at one evaluation of a training run, for each seed.

  The learning rate is the best on the validation split.

  Args:
    record: the record of a trained model.
    statistic: the name of the statistic, one of `effective`, `spread` and `energy`.
    evaluation_index: the index of the evaluation, 0 before training and -1 after training.

  Returns:
    The values in the order of the seeds. The statistic `energy` is a list over distances.

  """
  members = record['result']['members']
  indices = [members.index(member) for member in scores.results_at_best_learning_rate(record)]
  values = record['result']['watched'][evaluation_index][statistic]
  return [values[index] for index in indices]


def is_dependency_within_receptive_field(record: dict) -> bool:
  """Whether the dependency distance of the task is within the receptive field of the model."""
  field = record['result']['receptive_field']
  return field is None or record['result']['distance'] < field


def select_records_at_longest_distance_within_receptive_field(
  records_of_trained_models: Sequence[dict]
) -> list[dict]:
  """Selects, for each model, the record of the longest distance within the model's receptive field.

  A model has one record for each dependency distance of its task. Models with an unbounded
  receptive field and records without measurements during training are omitted.
  """
  longest: dict[str, dict] = {}
  for record in sorted(records_of_trained_models, key=lambda r: r['result']['distance']):
    result = record['result']
    is_within = result['receptive_field'] and is_dependency_within_receptive_field(record)
    if is_within and result.get('watched'):
      longest[_layer_stack_label(record)] = record
  return list(longest.values())


def receptive_field_table(records_of_untrained_models: Sequence[dict]) -> Table:
  """Table that compares theoretical receptive fields with those measured from gradients.

  The records are from models at initialisation. The measured field includes every nonzero
  gradient, and the effective field includes only the large gradients.
  """
  rows = [
    (
      _layer_stack_label(record),
      record['result']['theoretical'], max(record['result']['measured']),
      measured_receptive_field_equals_theoretical(record),
      mean_with_confidence_interval(record['result']['effective']),
      mean_with_confidence_interval(ratios_of_effective_to_theoretical_receptive_field(record)),
      mean_with_confidence_interval(record['result']['spread']),
    )
    for record in records_of_untrained_models
  ]
  return Table(
    'Receptive fields at initialisation',
    ('stack', 'theoretical field', 'measured field', 'measured equals theoretical',
     'effective field', 'effective / theoretical', 'spread'),
    rows,
    'In tokens. Measured: up to the earliest input with a nonzero entry in the Jacobian of the '
    'last output. Effective: the number of distances at which the gradient exceeds 4.55 % of its '
    'maximum (Luo et al. 2016), which excludes the gaps of a dilated kernel. Spread: the standard '
    'deviation of the distance between output and input, weighted by the squared gradient. Mean '
    "over seeds with Student's 95 % interval. A dash marks an unbounded field, where the last "
    'output must depend on every input.',
  )


def _table_of_growth_with_depth(records_by_layer: dict[str, list[dict]]) -> Table:
  """Table of power-law exponents of receptive fields as functions of depth, for each layer."""
  rows = []
  for layer, group in records_by_layer.items():
    depths = [record['run']['depth'] for record in group]
    theoretical = growth_exponent(depths, [[record['result']['theoretical'] for record in group]])
    intervals = (
      mean_with_confidence_interval(depth_scaling_exponents(group, statistic))
      for statistic in ('effective', 'spread'))
    rows.append((layer, ', '.join(map(str, depths)), theoretical.estimate, *intervals))
  return Table(
    'Growth of receptive fields with depth',
    ('layer', 'depths', 'theoretical field', 'effective field', 'spread'),
    rows,
    'Exponents of the depth, fitted for each seed. The plain block has no residual connection. '
    'There the spread of a stack with random weights grows with the square root of the depth '
    '(Luo et al. 2016), which is an exponent of 0.5.',
  )


def _table_of_scores_near_receptive_field_boundary(
  task: str, records_of_trained_models: Sequence[dict]
) -> Table:
  """Table of test scores of each model at distances within and beyond its receptive field."""
  distances = sorted({record['result']['distance'] for record in records_of_trained_models})
  rows: dict[str, dict] = {}
  for record in records_of_trained_models:
    result = record['result']
    row = rows.setdefault(_layer_stack_label(record), {'field': result['receptive_field']})
    row[result['distance']] = mean_test_metric_or_status(record)
  first = records_of_trained_models[0]['result']
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


def _effective_receptive_field_table(task: str, records_of_trained_models: Sequence[dict]) -> Table:
  """Table of the effective receptive fields of models at initialisation and after training."""
  rows = [
    (
      _layer_stack_label(record), record['result']['receptive_field'], record['result']['distance'],
      *(
        mean_with_confidence_interval(statistic_at_evaluation(record, statistic, index))
        for statistic in ('effective', 'spread') for index in (0, -1)
      ),
    )
    for record in records_of_trained_models if record['result'].get('watched')
  ]
  return Table(
    f'Effective receptive fields before and after training: {task}',
    ('model', 'receptive field', 'distance', 'effective field before training',
     'effective field after training', 'spread before training', 'spread after training'),
    rows,
    'In tokens, for the embedded tokens of the test split. Effective field: the number of '
    'distances at which the gradient exceeds 4.55 % of its maximum. Spread: the standard deviation '
    'of the distance between output and input, weighted by the squared gradient. Mean over the '
    'seeds at the selected learning rate, before the first step and after the last.',
  )


def _receptive_field_panels(
  records_of_untrained_models: Sequence[dict], records_of_trained_models: Sequence[dict]
) -> list[Panel]:
  """All figure panels of receptive fields, before, during and after training."""
  drawn = [
    _panel_of_receptive_field_against_depth(group_stacks_by_layer(records_of_untrained_models))]
  for task, group in _group_by_task_and_settings(records_of_trained_models).items():
    boundary_records = select_records_at_longest_distance_within_receptive_field(group)
    drawn += [
      _panel_of_scores_near_receptive_field_boundary(task, group),
      _panel_of_receptive_field_widening_during_training(boundary_records),
      *map(_panel_of_squared_gradient_norm_by_distance, boundary_records),
    ]
  return [panel for panel in drawn if panel.series]


def _panel_of_scores_near_receptive_field_boundary(
  task: str, records_of_trained_models: Sequence[dict]
) -> Panel:
  """Panel of test scores against the dependency distance in units of the receptive field."""
  series: dict[str, list] = {}
  for record in records_of_trained_models:
    field = record['result']['receptive_field']
    if field and record['status'] == 'finished':
      point = record['result']['distance'] / field, scores.mean_test_metric_with_interval(record)
      series.setdefault(_layer_stack_label(record), []).append(point)
  first = records_of_trained_models[0]['result']
  return Panel(
    task, 'distance / receptive field', first['metric'], series,
    lines={'chance': first['chance']},
  )


def _panel_of_receptive_field_against_depth(records_by_layer: dict[str, list[dict]]) -> Panel:
  """Panel of effective and theoretical receptive fields against depth.

  Only the layers with the most depths are drawn.
  """
  series: dict[str, list] = {}
  most = max(map(len, records_by_layer.values()), default=0)
  for layer, group in records_by_layer.items():
    if len(group) == most:
      by_depth = [(record['run']['depth'], record['result']) for record in group]
      series[layer] = [
        (depth, mean_with_confidence_interval(result['effective'])) for depth, result in by_depth]
      series[f'{group[0]["run"]["layer"]}, theoretical'] = [
        (depth, Interval.without_confidence_bounds(result['theoretical']))
        for depth, result in by_depth
      ]
  return Panel('effective receptive field', 'depth', 'tokens', series, log_x=True)


def _panel_of_receptive_field_widening_during_training(records: Sequence[dict]) -> Panel:
  """Panel of the spread of the gradient over input-output distances during training.

  The spread is the standard deviation of the distance in tokens between output and input, weighted
  by squared gradient norm. It is plotted against the training step.
  """
  series = {
    _layer_stack_label(record): [
      (
        evaluation['step'],
        mean_with_confidence_interval(statistic_at_evaluation(record, 'spread', index)),
      )
      for index, evaluation in enumerate(record['result']['watched'])
    ]
    for record in records
  }
  return Panel('spread of the gradient in training', 'step', 'tokens', series)


def _panel_of_squared_gradient_norm_by_distance(record: dict) -> Panel:
  """Panel of squared gradient norms by input-output distance, before and after training."""
  result, series = record['result'], {}
  for time, index in (('before training', 0), ('after training', -1)):
    by_distance = zip(*statistic_at_evaluation(record, 'energy', index), strict=True)
    series[time] = [
      (distance, mean_with_confidence_interval(values))
      for distance, values in enumerate(by_distance)
      if distance < result['receptive_field']]
  axis = f'distance in tokens (depth {record["run"]["depth"]}, task distance {result["distance"]})'
  return Panel(_layer_name(record), axis, 'fraction of squared gradient', series)
