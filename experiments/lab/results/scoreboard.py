"""What trained cells say, as tables and panels: scores by layer and question, budgets, curves."""

from experiments.lab.results import published, scores
from experiments.lab.results.figures import Panel
from experiments.lab.results.table import Table


def columns_of(records) -> dict[str, list[dict]]:
  """The records under each column of the table: the question and its distance, in their order.

  Records of a question that differ in more than the layer stand in columns of their own, which are
  named by what differs.
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
  return {name: group for label, same in labels.items() for name, group in told_apart(label, same)}


def told_apart(label: str, same):
  """Columns of one label, with the settings in which they differ."""
  for setting, group in same:
    others = [other for other, _ in same if other is not setting]
    # A setting that came later is missing from records that are older.
    differing = [k for k, v in setting.items() if any(other.get(k) != v for other in others)]
    yield ' '.join([label, *(f'{k}={setting[k]}' for k in differing)]), group


def value_of(record: dict):
  """A table's cell: the metric with its interval, or what became of the cell instead."""
  return record['status'] if record['status'] != 'finished' else scores.metric_interval(record)


def layers_of(records) -> list[str]:
  """The layers, in the records' order."""
  return list(dict.fromkeys(record['run']['layer'] for record in records))


def score_table(title: str, columns, layers) -> Table:
  """Metrics on the test split: a row a layer, a column a question at a distance."""
  finished = {name: [r for r in group if r['result']] for name, group in columns.items()}
  cells = {
    (record['run']['layer'], name): value_of(record)
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
    f"{units}. Test split, mean over seeds with Student's 95 % interval, at the learning rate that "
    'is best on the validation split.',
    best if len(layers) > 1 else {},
    references=2,
  )


def extrapolation_table(title: str, columns, layers) -> Table:
  """Metrics at the trained distance, then at each beyond it: a row a layer."""
  finished = {name: [r for r in g if r['status'] == 'finished'] for name, g in columns.items()}
  names, cells, chances = [], {}, {}
  for name, group in finished.items():
    names.append(name)
    for record in group:
      result, layer = record['result'], record['run']['layer']
      cells[layer, name], chances[name] = scores.metric_interval(record), result['chance']
      known = zip(result['extrapolation'], scores.extrapolation(record).values(), strict=True)
      for there, value in known:
        column = f'{name} at {there["distance"]}'
        cells[layer, column], chances[column] = value, there['chance']
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
    'Test metric where it was trained, and at distances beyond, each of which counts only what '
    "lies farther than the one before. Mean over seeds with Student's 95 % interval, at the "
    'learning rate that is best on the validation split of the trained distance.',
    best if len(layers) > 1 else {},
    references=1,
  )


def budget_table(title: str, columns, layers) -> Table:
  """What each model was given: its width, its parameters, the learning rate, the time it took."""
  rows = []
  for name, group in columns.items():
    for record in sorted(group, key=lambda r: layers.index(r['run']['layer'])):
      result = record['result']
      if not result:
        rows.append((name, record['run']['layer'], *[None] * 6, record['reason']))
        continue
      steps = [member['steps'] for member in result['members']]
      off = result['parameters'] / (result['budget'] or result['parameters']) - 1
      rows.append((
        name, record['run']['layer'], result['width'], result['parameters'], f'{off:+.1%}',
        result['receptive_field'], result['learning_rate'], round(sum(steps) / len(steps)),
        f'{record["seconds"]:.0f}',
      ))
  return Table(
    title,
    ('question', 'layer', 'width', 'parameters', 'off budget', 'receptive field',
     'learning rate', 'mean steps', 'seconds'),
    rows,
    'Widths are solved so that parameters match the budget; a dash under receptive field means '
    'unbounded. A member that has solved its task stops before its last step.',
  )


def published_tables(records) -> list[Table]:
  """A table of what others have published for the same settings, beside ours, if they have."""
  ours = {}
  for record in records:
    if record['status'] != 'finished':
      continue
    result, layer = record['result'], record['run']['layer']
    for name in (layer, 'trivial'):
      settings = result['settings'] | {'width': result['width']}
      for entry in published.published(task=result['family'], layer=name, **settings):
        measure = scores.metric_interval if entry.metric == result['metric'] else (
          scores.loss_interval)
        ours[entry] = measure(record) if name == layer else None
  return [published.table('Published numbers beside ours', ours, ours)] if ours else []


def panels(records) -> list[Panel]:
  """Score against distance, a panel a question."""
  questions: dict[str, list[dict]] = {}
  for record in records:
    if record['status'] == 'finished':
      questions.setdefault(record['result']['title'], []).append(record)
  drawn = []
  # Curves first: a question at a single distance is a point.
  for title, group in sorted(questions.items(), key=lambda question: -len(question[1])):
    series: dict[str, list] = {}
    for record in group:
      point = record['result']['distance'], scores.metric_interval(record)
      series.setdefault(record['run']['layer'], []).append(point)
    curve = len({record['result']['distance'] for record in group}) > 1
    result = group[0]['result']
    lines = {'chance': result['chance'], 'oracle': result['perfect']}
    drawn.append(Panel(title, result['axis'], result['metric'], series, log_x=curve, lines=lines))
  return drawn


def extrapolation_panels(records) -> list[Panel]:
  """Metric against distance, from the trained one on, a panel a question."""
  drawn = []
  for name, group in columns_of([r for r in records if r['status'] == 'finished']).items():
    result = group[0]['result']
    series = {
      record['run']['layer']: [
        (result['distance'], scores.metric_interval(record)), *scores.extrapolation(record).items()
      ]
      for record in group
    }
    lines = {'chance': result['chance'], 'oracle': result['perfect']}
    drawn.append(
      Panel(name, result['axis'], result['metric'], series, log_x=True, lines=lines)
    )
  return drawn


def state_panels(records) -> list[Panel]:
  """Metric against the bytes that a model remembers of a sequence, a panel a question."""
  drawn = []
  for name, group in columns_of([r for r in records if r['status'] == 'finished']).items():
    result = group[0]['result']
    series = {
      record['run']['layer']: [
        (max(1, record['result']['state_bytes']), scores.metric_interval(record))
      ]
      for record in group
    }
    lines = {'chance': result['chance'], 'oracle': result['perfect']}
    drawn.append(Panel(name, 'bytes of state', result['metric'], series, log_x=True, lines=lines))
  return drawn
