"""Tables and figures of test metrics, sizes and length extrapolation of trained models."""

from experiments.lab.results import published, scores
from experiments.lab.results.figures import Panel
from experiments.lab.results.table import Table


def group_by_table_column(records) -> dict[str, list[dict]]:
  """Groups records by table column. Records in one column share all settings except the layer.

  The name of a column contains the task, the distance, and the settings that distinguish the column
  from other columns of the same task and distance.

  Returns:
    The records of each column, by the name of the column.
  """
  groups: dict[tuple, list[dict]] = {}
  for record in sorted(records, key=lambda r: (r['result'].get('title', r['run']['task']),
                                               r['result'].get('distance', 0))):
    setting = tuple((k, str(v)) for k, v in sorted(record['run'].items()) if k != 'layer')
    groups.setdefault(setting, []).append(record)
  labels = {}
  for setting, group in groups.items():
    result = group[0]['result']
    label = f'{result["title"]} {result["distance"]}' if result else dict(setting)['task']
    labels.setdefault(label, []).append((dict(setting), group))
  return {
    name: group for label, columns in labels.items()
    for name, group in label_columns_by_differing_settings(label, columns)
  }


def label_columns_by_differing_settings(shared_label: str, columns):
  """Yields the label and the records of each table column.

  A label is the shared label followed by the settings that differ between the columns.
  """
  for setting, group in columns:
    others = [other for other, _ in columns if other is not setting]
    # Records of earlier code versions lack settings that were introduced later.
    differing = [k for k, v in setting.items() if any(other.get(k) != v for other in others)]
    yield ' '.join([shared_label, *(f'{k}={setting[k]}' for k in differing)]), group


def mean_test_metric_or_status(record: dict):
  """Returns the test metric with its interval, or the status of an unfinished grid cell."""
  if record['status'] != 'finished':
    return record['status']
  return scores.mean_test_metric_with_interval(record)


def layers_in_record_order(records) -> list[str]:
  """Returns the distinct layers of the records in order of first occurrence."""
  return list(dict.fromkeys(record['run']['layer'] for record in records))


def table_of_test_metrics(title: str, columns, layers) -> Table:
  """Returns a table of the test metric for each layer, task and dependency distance.

  A row contains the metrics of a layer. A column belongs to a task and a dependency distance.

  Args:
    title: The title of the table.
    columns: The records of each column, as from `group_by_table_column`.
    layers: The layers in the order of the rows.

  Returns:
    The table, with chance and the oracle as its last rows.
  """
  finished = {name: [r for r in group if r['result']] for name, group in columns.items()}
  cells = {
    (record['run']['layer'], name): mean_test_metric_or_status(record)
    for name, group in columns.items() for record in group
  }
  rows = [(layer, *(cells.get((layer, name)) for name in columns)) for layer in layers]
  for row, known in (('chance', 'chance'), ('oracle', 'perfect')):
    rows.append((f'({row})', *(g[0]['result'][known] if g else None for g in finished.values())))
  metric = {name: group[0]['result']['metric'] for name, group in finished.items() if group}
  units = '; '.join(f'{unit}: {", ".join(n for n in metric if metric[n] == unit)}'
                    for unit in dict.fromkeys(metric.values()))
  best = {name: 'higher' if scores.higher_is_better(group[0]) else 'lower'
          for name, group in finished.items() if group}
  return Table(
    title,
    ('layer', *columns),
    rows,
    f"{units}. Mean over seeds on the test split with Student's 95 % interval, at the learning "
    'rate that is best on the validation split.',
    best if len(layers) > 1 else {},
    reference_rows=2,
  )


def extrapolation_table(title: str, columns, layers) -> Table:
  """Returns a table of test metrics at the training distance and at longer dependency distances.

  Args:
    title: The title of the table.
    columns: The records of each column, as from `group_by_table_column`.
    layers: The layers in the order of the rows.

  Returns:
    The table, with chance as its last row.
  """
  finished = {name: [r for r in g if r['status'] == 'finished'] for name, g in columns.items()}
  names, cells, chances = [], {}, {}
  for name, group in finished.items():
    names.append(name)
    for record in group:
      result, layer = record['result'], record['run']['layer']
      cells[layer, name] = scores.mean_test_metric_with_interval(record)
      chances[name] = result['chance']
      intervals = scores.mean_metric_of_each_extrapolation_test(record).values()
      for tested, value in zip(result['extrapolation'], intervals, strict=True):
        column = f'{name} at {tested["distance"]}'
        cells[layer, column], chances[column] = value, tested['chance']
        if column not in names:
          names.append(column)
  rows = [(layer, *(cells.get((layer, name)) for name in names)) for layer in layers]
  rows.append(('(chance)', *(chances.get(name) for name in names)))
  best = {
    name: 'higher' if scores.higher_is_better(group[0]) else 'lower'
    for start, group in finished.items() if group
    for name in names if name == start or name.startswith(f'{start} at ')
  }
  return Table(
    title,
    ('layer', *names),
    rows,
    'Test metric at the training distance and at longer distances. The column of a longer distance '
    'contains only the distances above the distance of the preceding column. '
    "Mean over seeds with Student's 95 % interval, at the learning rate that is best on the "
    'validation split with the training distance.',
    best if len(layers) > 1 else {},
    reference_rows=1,
  )


def parameter_budget_table(title: str, columns, layers) -> Table:
  """Returns a table of the width, parameter count, learning rate and training time of each model.

  Args:
    title: The title of the table.
    columns: The records of each column, as from `group_by_table_column`.
    layers: The layers in the order of the rows.

  Returns:
    The table, with a row for each task and layer.
  """
  rows = []
  for name, group in columns.items():
    for record in sorted(group, key=lambda r: layers.index(r['run']['layer'])):
      result = record['result']
      if not result:
        rows.append((name, record['run']['layer'], *[None] * 6, record['reason']))
        continue
      steps = [member['steps'] for member in result['members']]
      excess = result['parameters'] / (result['budget'] or result['parameters']) - 1
      rows.append((
        name, record['run']['layer'], result['width'], result['parameters'], f'{excess:+.1%}',
        result['receptive_field'], result['learning_rate'], round(sum(steps) / len(steps)),
        f'{record["seconds"]:.0f}',
      ))
  return Table(
    title,
    ('task', 'layer', 'width', 'parameters', 'deviation from budget', 'receptive field',
     'learning rate', 'mean steps', 'seconds'),
    rows,
    'Widths are chosen so that the number of parameters matches the budget. A dash in the column '
    'receptive field denotes an unbounded receptive field. Training stops early for a seed that '
    'solves its task.',
  )


def tables_of_published_numbers(records) -> list[Table]:
  """Returns a list with a table of published numbers, or an empty list if no records match any."""
  ours = {}
  for record in records:
    if record['status'] != 'finished':
      continue
    result, layer = record['result'], record['run']['layer']
    for name in (layer, 'trivial'):
      settings = result['settings'] | {'width': result['width']}
      for entry in published.find_published_numbers(task=result['family'], layer=name, **settings):
        measure = scores.mean_test_metric_with_interval if entry.metric == result['metric'] else (
          scores.mean_test_loss_with_interval)
        ours[entry] = measure(record) if name == layer else None
  if not ours:
    return []
  return [published.published_numbers_table('Published numbers and measurements', ours, ours)]


def panels_of_test_metrics(records) -> list[Panel]:
  """Returns a figure panel for each task, with the test metric against the dependency distance."""
  tasks: dict[str, list[dict]] = {}
  for record in records:
    if record['status'] == 'finished':
      tasks.setdefault(record['result']['title'], []).append(record)
  panels = []
  # Tasks with the most records come first.
  # Tasks measured at a single distance have no curve, so they come last.
  for title, group in sorted(tasks.items(), key=lambda item: -len(item[1])):
    series: dict[str, list] = {}
    for record in group:
      point = record['result']['distance'], scores.mean_test_metric_with_interval(record)
      series.setdefault(record['run']['layer'], []).append(point)
    log_x = len({record['result']['distance'] for record in group}) > 1
    result = group[0]['result']
    lines = {'chance': result['chance'], 'oracle': result['perfect']}
    panels.append(Panel(title, result['axis'], result['metric'], series, log_x=log_x, lines=lines))
  return panels


def extrapolation_panels(records) -> list[Panel]:
  """Returns figure panels of the test metric at the training distance and at longer distances."""
  panels = []
  finished = [record for record in records if record['status'] == 'finished']
  for name, group in group_by_table_column(finished).items():
    result = group[0]['result']
    series = {
      record['run']['layer']: [
        (result['distance'], scores.mean_test_metric_with_interval(record)),
        *scores.mean_metric_of_each_extrapolation_test(record).items(),
      ]
      for record in group
    }
    lines = {'chance': result['chance'], 'oracle': result['perfect']}
    panels.append(Panel(name, result['axis'], result['metric'], series, log_x=True, lines=lines))
  return panels


def panels_of_metric_against_state_size(records) -> list[Panel]:
  """Returns figure panels of the test metric against the size of the recurrent state in bytes."""
  panels = []
  finished = [record for record in records if record['status'] == 'finished']
  for name, group in group_by_table_column(finished).items():
    result = group[0]['result']
    series = {
      record['run']['layer']: [
        (max(1, record['result']['state_bytes']), scores.mean_test_metric_with_interval(record))
      ]
      for record in group
    }
    lines = {'chance': result['chance'], 'oracle': result['perfect']}
    panels.append(Panel(name, 'state bytes', result['metric'], series, log_x=True, lines=lines))
  return panels
