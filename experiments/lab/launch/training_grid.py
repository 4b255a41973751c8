"""Creation of a grid of runs that train every layer on every task at every dependency distance."""

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

from experiments.lab.cells import checks, experiment, spec, training
from experiments.lab.cells.experiment import Experiment
from experiments.lab.errors import BadInput
from experiments.lab.launch import flags
from experiments.lab.launch.grid import Job
from experiments.lab.launch.study import Preset, Study, TaskGrid
from experiments.lab.results import translation_scores
from experiments.lab.tasks.task import Task

SEARCHED_DISTANCES = 1000  # range of the search for a valid distance near an invalid one


def jobs(study: Study, preset: Preset) -> list[Job]:
  """Returns one job that executes all training experiments requested by command-line flags."""
  return [training_job(study, requested_experiments(preset))]


def requested_experiments(preset: Preset) -> list[Experiment]:
  """Creates the experiments of a preset after command-line flags have overridden its values."""
  tasks = requested_tasks(preset)
  layers = requested_layers(preset, {task.model_kind for _, task in tasks})
  settings = flags.requested_settings()
  return distinct_experiments(
    experiment_from_settings(preset.settings | task_grid.settings | settings, layer, task)
    for task_grid, task in tasks
    for layer in layers
  )


def requested_layers(preset: Preset, kinds: set[str]) -> list[Any]:
  """Returns the requested layers or encoder-decoder models, by default those of the preset.

  If all tasks require models of one kind, the specs of --layers are parsed as this kind, and
  otherwise as the kind of the preset.
  """
  if not flags.flag_was_set('layers'):
    return spec.parse_spec_list(preset.layers, preset.kind)
  (kind,) = kinds if len(kinds) == 1 else (preset.kind,)
  return spec.parse_spec_list(flags.FLAGS.layers, kind)


def experiment_from_settings(settings: dict[str, Any], layer: Any, task: Task) -> Experiment:
  """Creates the experiment of a layer on a task from the settings of a run.

  Args:
    settings: settings of the run by name. Settings without effect are reset to their defaults.
    layer: the layer, or the translator if the task requires one.
    task: the task.

  Returns:
    The experiment.

  Raises:
    BadInput: if the task requires a translator and a layer is given, or the converse, or if a
      setting is invalid.

  """
  kind = task.model_kind
  if type(layer) not in spec.CATALOGUES[kind].values():
    other_kind = next(name for name in experiment.REFERENCE if name != kind)
    layer = spec.parse_spec(spec.component_to_spec_string(layer, other_kind), kind)
  names = {
    'layer': spec.component_to_spec_string(layer, kind),
    'task': spec.component_to_spec_string(task, 'task')}
  run = checks.reset_unused_settings(flags.create_run(settings | names), task)
  return experiment.create_experiment(run, layer, task)


def distinct_experiments(experiments: Iterable[Experiment]) -> list[Experiment]:
  """Removes duplicates from the experiments, for example if the flags name a task twice.

  Raises:
    BadInput: if the command sets a flag that has no effect in any experiment.

  """
  distinct = {experiment.run: experiment for experiment in experiments}.values()
  flags.reject_flags_without_effect([
    checks.settings_without_effect(experiment.run, experiment.task) for experiment in distinct])
  return list(distinct)


def requested_tasks(preset) -> list[tuple[TaskGrid, Task]]:
  """Returns a pair (experiment grid, task) for each requested task and dependency distance."""
  return [
    (task_grid, task_with_dependency_distance(task, distance))
    for task_grid, task in requested_task_grids(preset)
    for distance in flags.requested_lengths() or task_grid.distances
  ]


def requested_task_grids(preset) -> list[tuple[TaskGrid, Task]]:
  """Returns a pair (experiment grid, task) for each requested task.

  The requested tasks are those of --tasks and, if this flag is not set, those of the preset.
  """
  if not flags.flag_was_set('tasks'):
    return [(task_grid, spec.parse_spec(task_grid.task, 'task'))
            for task_grid in preset.task_grids]
  return [pair for task_spec in spec.split_specs(flags.FLAGS.tasks)
          for pair in _experiment_grids_of_task(task_spec, preset.task_grids)]


def _experiment_grids_of_task(
    task_spec: str, preset_grids: Sequence[TaskGrid]) -> list[tuple[TaskGrid, Task]]:
  """Returns the preset's grids of the task family `task_spec`, or one new grid if it has none.

  Each task grid is returned with the task that its spec describes.
  """
  families = [(task_grid.task.partition('(')[0], task_grid) for task_grid in preset_grids]
  matching = [task_grid for family, task_grid in families if family == task_spec]
  if matching:
    return [(task_grid, spec.parse_spec(task_grid.task, 'task')) for task_grid in matching]
  task = spec.parse_spec(task_spec, 'task')
  settings = next(
    (task_grid.settings for family, task_grid in families if family == task.family), {})
  return [(TaskGrid(task_spec, (task.dependency_distance,), settings), task)]


def task_with_dependency_distance(task: Task, distance: int) -> Task:
  """Returns a copy of the task with the given dependency distance, or raises BadInput."""
  try:
    return task.with_dependency_distance(distance)
  except ValueError as error:
    valid = [f'{value}' for direction in (-1, 1)
             if (value := _nearest_valid_dependency_distance(task, distance, direction))]
    hint = f'; the nearest valid lengths are {" and ".join(valid)}' if valid else ''
    raise BadInput(
      f'--lengths={distance} is invalid for {spec.component_to_spec_string(task, "task")}, '
      f'whose other options scale with the length: {error}{hint}'
    ) from None


def _nearest_valid_dependency_distance(
    task: Task, invalid_distance: int, search_direction: int) -> int | None:
  """Finds the nearest valid dependency distance in one direction from an invalid distance.

  The search goes upwards if `search_direction` is 1 and downwards if it is -1. The result is None
  if no distance within SEARCHED_DISTANCES is valid.
  """
  stop = max(0, invalid_distance + SEARCHED_DISTANCES * search_direction)
  for value in range(max(1, invalid_distance + search_direction), stop, search_direction):
    with contextlib.suppress(ValueError):
      return task.with_dependency_distance(value).dependency_distance
  return None


def training_job(study: Study, experiments: Iterable[Experiment], metrics_callback=None) -> Job:
  """Creates the job that trains the given experiments.

  Args:
    study: the study that the cells belong to.
    experiments: the experiments, which are checked first.
    metrics_callback: function that measures the members' states during training, as for
      `training_executor`.

  Returns:
    The job with one cell per experiment.

  Raises:
    BadInput: if a width, length or size is invalid.
    MissingExtra: if translations are to be scored and a library for it is not installed.

  """
  experiments = list(experiments)
  for checked in experiments:
    checks.check_experiment(checked)
  if any(checked.task.model_kind == 'translator' for checked in experiments):
    # A missing library must be reported before training, although only the scoring needs it.
    translation_scores.require_scoring_libraries()
  values = flags.FLAGS
  execute = training.training_executor(
    values.parallel, values.timeout, values.runs, values.save_weights, metrics_callback)
  cells = [training.create_training_grid_cell(study.name, trained) for trained in experiments]
  return Job(cells, execute)
