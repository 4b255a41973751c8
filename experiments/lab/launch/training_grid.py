"""The grid of a study that trains layers on tasks: every layer on every task at every distance."""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

from experiments.lab.cells import checks, experiment, spec, training
from experiments.lab.cells.experiment import Experiment
from experiments.lab.errors import BadInput
from experiments.lab.launch import flags
from experiments.lab.launch.grid import Job
from experiments.lab.launch.study import Preset, Study, TaskGrid
from experiments.lab.results import translations
from experiments.lab.tasks.task import Task

NEAR = 1000  # distances in which one that a task has is looked for


def jobs(study: Study, preset: Preset) -> list[Job]:
  """The cells that the flags ask for."""
  return [trained(study, grid(preset))]


def grid(preset: Preset) -> list[Experiment]:
  """The experiments that the flags ask for."""
  tasks = tasks_of(preset)
  layers = asked_layers(preset, {task.answered_by for _, task in tasks})
  return distinct(
    resolved(preset.settings | question.settings | flags.settings(), layer, task)
    for question, task in tasks
    for layer in layers
  )


def asked_layers(preset: Preset, kinds: set[str]) -> list[Any]:
  """The preset's layers, or those of --layers, of the kind that answers all tasks if one does."""
  if not flags.given('layers'):
    return spec.parse_all(preset.layers, preset.kind)
  (kind,) = kinds if len(kinds) == 1 else (preset.kind,)
  return spec.parse_all(flags.FLAGS.layers, kind)


def resolved(settings: dict[str, Any], layer: Any, task: Task) -> Experiment:
  """The experiment of settings with a layer and a task; what changes nothing is at its default.

  A BadInput for a layer where the task is to translate, and for a translator where it is not.
  """
  kind = task.answered_by
  if type(layer) not in spec.CATALOGUES[kind].values():
    other = next(each for each in experiment.REFERENCE if each != kind)
    layer = spec.parse(spec.describe(layer, other), kind)
  names = {'layer': spec.describe(layer, kind), 'task': spec.describe(task, 'task')}
  run = checks.neutral(flags.make_run(**settings | names), task)
  return experiment.resolve(run, layer, task)


def distinct(experiments: Iterable[Experiment]) -> list[Experiment]:
  """Each run once: a task may be named twice. A BadInput for a flag that changes none of them."""
  unique = {one.run: one for one in experiments}.values()
  flags.refuse_unused([checks.without_effect(one.run, one.task) for one in unique])
  return list(unique)


def tasks_of(preset) -> list[tuple[TaskGrid, Task]]:
  """The preset's questions, or those of --tasks, each with its task at every distance."""
  return [
    (question, at(task, distance)) for question, task in wanted(preset)
    for distance in flags.lengths() or question.distances
  ]


def wanted(preset) -> list[tuple[TaskGrid, Task]]:
  """The preset's questions, or those of --tasks, each with its task."""
  if not flags.given('tasks'):
    return [(question, spec.parse(question.task, 'task')) for question in preset.task_grids]
  return [
    found for text in spec.split(flags.FLAGS.tasks) for found in asked(text, preset.task_grids)]


def asked(text: str, task_grids: Sequence[TaskGrid]) -> list[tuple[TaskGrid, Task]]:
  """The questions of a task: the preset's if it is only named, else as the spec says."""
  families = [(question.task.partition('(')[0], question) for question in task_grids]
  same = [question for family, question in families if family == text]
  if same:
    return [(question, spec.parse(question.task, 'task')) for question in same]
  task = spec.parse(text, 'task')
  settings = next((q.settings for family, q in families if family == task.family), {})
  return [(TaskGrid(text, (task.distance,), settings), task)]


def at(task: Task, distance: int) -> Task:
  """A task at a distance; a BadInput that says at which distances near it the task can be."""
  try:
    return task.at(distance)
  except ValueError as error:
    near = [f'{value}' for step in (-1, 1) if (value := nearest(task, distance, step))]
    hint = f'; the nearest lengths that it has are {" and ".join(near)}' if near else ''
    raise BadInput(
      f'--lengths={distance} does not suit {spec.describe(task, "task")}, which keeps its '
      f'proportions at every length: {error}{hint}'
    ) from None


def nearest(task: Task, distance: int, step: int) -> int | None:
  """The first distance, in steps from one that it does not have, that a task has; None: none."""
  for value in range(max(1, distance + step), max(0, distance + NEAR * step), step):
    with contextlib.suppress(ValueError):
      return task.at(value).distance
  return None


def trained(study: Study, experiments: Iterable[Experiment], watch=None) -> Job:
  """What trains each of the experiments that the store lacks, under `watch`."""
  experiments = list(experiments)
  for one in experiments:
    checks.check(one)
  if any(one.task.answered_by == 'translator' for one in experiments):
    translations.ready()  # scores in words are computed after training, for the tables
  given = flags.FLAGS
  execute = training.train_cell(
    given.parallel, given.timeout, given.runs, given.save_weights, watch)
  return Job([training.cell_of(study.name, one) for one in experiments], execute)
