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
      Question('recall(length=32, num_pairs=4, vocabulary_size=64)', (32, 64, 128)),
      Question('copy_memory(delay=20)', (30, 80)),
      Question('adding(length=50)', (50,)),
      Question('text(length=64)', (64,), {'feedforward': 'gelu'}),
    ),
    settings={'steps': 400, 'batch_size': 32, 'learning_rates': (3e-3, 1e-2)},
  ),
  # Published sizes, for a GPU or a TPU: Zoology's Figure 2, Bai's and Arjovsky's settings.
  'paper': Preset(
    layers=('attention', 'elman', 'lstm', 'gru', 'convolution', 'tcn'),
    questions=(
      Question(
        'recall(length=64, num_pairs=4)', (64, 128, 256),
        {'steps': 12500, 'batch_size': 512, 'weight_decay': 0.1},
      ),
      Question(
        'recall(length=512, num_pairs=64)', (512,),
        {'steps': 50000, 'batch_size': 128, 'weight_decay': 0.1},
      ),
      Question('copy_memory(delay=100)', (110, 210, 310, 510, 1010), {'steps': 20000}),
      Question('copy_memory(delay=500, variant=bai)', (510, 1010), {'steps': 20000}),
      Question('adding(length=200)', (200, 400, 600), {'steps': 20000}),
      Question('adding(length=200, variant=bai)', (200, 400, 600), {'steps': 20000}),
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
  layers = preset.layers
  if flags.given('layers'):
    layers = spec.split(flags.FLAGS.layers)
  layers = [spec.describe(spec.parse(layer, 'layer'), 'layer') for layer in layers]
  questions = preset.questions
  if flags.given('tasks'):
    questions = [q for text in spec.split(flags.FLAGS.tasks) for q in asked(text, questions)]
  return [
    flags.make_run(**preset.settings | question.settings | flags.settings()
                   | {'layer': layer, 'task': task})
    for question in questions
    for task in distances(question)
    for layer in layers
  ]


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

  task = spec.parse(question.task, 'task')
  try:
    return [
      spec.describe(task.at(distance), 'task')
      for distance in flags.lengths() or question.distances
    ]
  except ValueError as error:
    raise BadInput(f'{task.family}: {error}') from None


def main() -> None:
  """Trains the grid's missing cells and prints the table."""
  from experiments.launch import cell, environment, grid as grids
  from experiments.results.store import Store

  environment.prepare(flags.FLAGS.host_devices, flags.FLAGS.cache)
  runs = grid()
  store = Store(flags.FLAGS.runs)
  records = grids.launch(
    [cell.cell_of(STUDY, run) for run in runs],
    cell.execute(flags.FLAGS.parallel, flags.FLAGS.timeout),
    store,
    flags.FLAGS.retry,
  )
  print(records)


if __name__ == '__main__':
  flags.main(main, define, __doc__)
