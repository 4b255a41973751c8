"""Who remembers? Score against distance, for every layer, in one shell and at one budget.

  python -m experiments.retention --preset=quick --layers=attention,lstm --runs=runs/quick

Four questions, each at growing distances: associative recall (pairs and length grow), copy memory
(the delay grows), the adding problem (the length grows) and real text (the context grows). Each
layer is trained anew at each distance with every seed and learning rate; the rate is chosen on
validation, the score is from the test split. Finished cells are stored, and skipped next time.
"""

import dataclasses
from typing import Any

from absl import flags as absl_flags

from experiments.launch import flags

STUDY = 'retention'


@dataclasses.dataclass(frozen=True)
class Question:
  """A task, the distances to ask it at, and what its runs need to be otherwise."""

  task: str
  distances: tuple[int, ...]
  settings: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Preset:
  """Layers, questions, and the settings of all their runs."""

  layers: tuple[str, ...]
  questions: tuple[Question, ...]
  settings: dict[str, Any]


# Losses are published far below what counts as solved: training goes on to its last step.
PUBLISHED = {'steps': 20000, 'stop_when_solved': False}

PRESETS = {
  # Every line that `paper` goes through, in the least time.
  'smoke': Preset(
    layers=('attention(num_heads=2)', 'lstm'),
    questions=(
      Question('recall(length=16, num_pairs=2, vocabulary_size=16)', (16,)),
      Question('copy_memory(delay=4, num_symbols=2)', (6,)),
      Question('adding(length=8)', (8,)),
      Question('text(length=16)', (16,)),
    ),
    settings={
      'width': 8, 'depth': 1, 'steps': 4, 'batch_size': 8, 'validations': 2,
      'validation_batches': 1, 'test_batches': 1, 'seeds': (0, 1), 'learning_rates': (1e-3, 1e-2),
    },
  ),
  # The whole story at sizes for two CPU cores: about ten minutes.
  'quick': Preset(
    layers=('attention', 'lstm', 'gru', 'tcn'),
    questions=(
      Question('recall(length=32, num_pairs=4, vocabulary_size=64)', (16, 32, 48)),
      Question('copy_memory', (30, 60)),  # a TCN of this preset sees 57 tokens
      Question('adding', (50,), {'steps': 200}),
      Question('text', (64,), {'steps': 200, 'feedforward': 'gelu'}),
    ),
    settings={
      'steps': 600, 'batch_size': 32, 'validations': 15, 'learning_rates': (3e-3, 1e-2),
    },
  ),
  # Published sizes, for a GPU or a TPU: Zoology's Figure 2, Bai's and Arjovsky's settings.
  'paper': Preset(
    layers=(
      'attention', 'elman', 'lstm', 'gru', 'convolution', 'tcn', 'tcn(kernel_size=8, levels=8)'
    ),
    questions=(
      Question(
        'recall(length=64, num_pairs=4)', (64, 128, 256),
        {'steps': 12500, 'batch_size': 512, 'weight_decay': 0.1},
      ),
      Question(
        'recall(length=512, num_pairs=64)', (512,),
        {'steps': 50000, 'batch_size': 128, 'weight_decay': 0.1},
      ),
      Question('copy_memory', (30, 110, 210, 310, 510, 1010), PUBLISHED),
      Question('copy_memory(variant=bai)', (510, 1010), PUBLISHED),
      Question('adding', (200, 400, 600), PUBLISHED),
      Question('adding(variant=bai)', (200, 400, 600), PUBLISHED),
      Question(
        'text(length=64)', (64, 256, 1024, 4096),
        {'steps': 20000, 'width': 256, 'depth': 4, 'feedforward': 'gelu', 'expansion': 4.0},
      ),
    ),
    settings={
      'width': 64, 'batch_size': 64, 'seeds': (0, 1, 2, 3, 4),
      'learning_rates': (1e-4, 4.64e-4, 2.15e-3, 1e-2), 'validation_batches': 16,
      'test_batches': 64, 'schedule': 'cosine',
    },
  ),
}


def define() -> None:
  """The study's flags."""
  flags.define_study(
    PRESETS,
    steps='Training steps.',
    lengths='Distances to ask every task at, separated by commas, instead of the preset\'s.',
  )
  absl_flags.DEFINE_string(
    'tasks', None,
    "Tasks to ask, separated by commas: names in experiments/tasks/__init__.py, with options if "
    "need be; a task that the preset asks keeps the preset's options and distances.",
  )


def grid():
  """The runs that the flags ask for."""
  from experiments.launch import spec

  preset = flags.preset(PRESETS)
  layers = spec.layers(flags.FLAGS.layers if flags.given('layers') else preset.layers)
  questions = preset.questions
  if flags.given('tasks'):
    questions = [q for text in spec.split(flags.FLAGS.tasks) for q in asked(text, questions)]
  return list(dict.fromkeys(  # a task may be named twice; each of its runs is one cell
    flags.make_run(**preset.settings | question.settings | flags.settings()
                   | {'layer': layer, 'task': task})
    for question in questions
    for task in distances(question)
    for layer in layers
  ))


def asked(text: str, questions) -> list[Question]:
  """The questions of a task: the preset's if it is only named, else as the spec says."""
  from experiments.launch import spec

  task = spec.parse(text, 'task')
  same = [q for q in questions if q.task.partition('(')[0] == text]
  others = next((q.settings for q in questions if q.task.partition('(')[0] == task.family), {})
  return same or [Question(text, (task.distance,), others)]


def distances(question: Question) -> list[str]:
  """The specs of a question's task at all its distances, or at those of --lengths."""
  from experiments.launch import spec
  from experiments.launch.errors import BadInput

  task, wanted = spec.parse(question.task, 'task'), flags.lengths() or question.distances
  try:
    return [spec.describe(task.at(distance), 'task') for distance in wanted]
  except ValueError as error:
    raise BadInput(f'{task.family}: {error}') from None


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
    differing = [k for k, v in setting.items() if any(other[k] != v for other in others)]
    yield ' '.join([label, *(f'{k}={setting[k]}' for k in differing)]), group


def value_of(record: dict):
  """A table's cell: the metric with its interval, or what became of the cell instead."""
  from experiments.results import scores

  return record['status'] if record['status'] != 'finished' else scores.metric_interval(record)


def report(records: list[dict]):
  """The study's tables and panels."""
  columns = columns_of(records)
  layers = list(dict.fromkeys(record['run']['layer'] for record in records))
  tables = [score_table(columns, layers), budget_table(columns, layers), *published(records)]
  return tables, panels(records)


def score_table(columns, layers):
  """Metrics on the test split: a row a layer, a column a question at a distance."""
  from experiments.results import scores
  from experiments.results.table import Table

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
    'Retention: score against distance',
    ('layer', *columns),
    rows,
    f"{units}. Test split, mean over seeds with Student's 95 % interval, at the learning rate that "
    'is best on the validation split.',
    best if len(layers) > 1 else {},
    references=2,
  )


def budget_table(columns, layers):
  """What each model was given: its width, its parameters, the learning rate, the time it took."""
  from experiments.results.table import Table

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
    'Retention: budgets',
    ('question', 'layer', 'width', 'parameters', 'off budget', 'receptive field',
     'learning rate', 'mean steps', 'seconds'),
    rows,
    'Widths are solved so that parameters match the budget; a dash under receptive field means '
    'unbounded. A member that has solved its task stops before its last step.',
  )


def published(records):
  """A table of what others have published for the same settings, beside ours, if they have."""
  from experiments.results import published, scores

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


def panels(records):
  """Score against distance, a panel a question."""
  from experiments.results import scores
  from experiments.results.figures import Panel

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


def main() -> None:
  """Trains the grid's missing cells, prints the table, and leaves it with its figure as files."""
  from experiments.launch import build, cell, environment
  from experiments.launch import grid as grids
  from experiments.results import publish
  from experiments.results.store import Store

  environment.prepare(flags.FLAGS.host_devices, flags.FLAGS.cache)
  runs = grid()
  for run in runs:
    build.check_width(run)
  records = grids.launch(
    [cell.cell_of(STUDY, run) for run in runs],
    cell.execute(flags.FLAGS.parallel, flags.FLAGS.timeout),
    Store(flags.FLAGS.runs),
    flags.FLAGS.retry,
  )
  publish.study(STUDY, *report(records), flags.FLAGS.runs)


if __name__ == '__main__':
  flags.main(main, define, __doc__)
