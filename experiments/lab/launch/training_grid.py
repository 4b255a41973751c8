"""Creation of a grid of runs that train every layer on every task at every distance in tokens."""

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
  """Returns the job that trains all experiments requested by the command-line flags."""
  return [training_job(study, requested_experiments(preset))]


def requested_experiments(preset: Preset) -> list[Experiment]:
  """Creates the experiments of a preset, some of whose values the flags may override."""
  tasks = requested_tasks(preset)
  layers = requested_layers(preset, {task.model_kind for _, task in tasks})
  settings = flags.requested_settings()
  return distinct_experiments(
    experiment_from_settings(preset.settings | task_grid.settings | settings, layer, task)
    for task_grid, task in tasks
    for layer in layers
  )


def requested_layers(preset: Preset, kinds: set[str]) -> list[Any]:
  """Returns the layers or translators that the flag --layers or else the preset names.

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
    layer = spec.parse_spec(spec.format_spec(layer, other_kind), kind)
  names = {'layer': spec.format_spec(layer, kind), 'task': spec.format_spec(task, 'task')}
  run = checks.reset_unused_settings(flags.make_run(**settings | names), task)
  return experiment.create_experiment(run, layer, task)


def distinct_experiments(experiments: Iterable[Experiment]) -> list[Experiment]:
  """Removes duplicates from the experiments, for example if the flags name a task twice.

  Raises:
    BadInput: if the command sets a flag that has no effect in any experiment.

  """
  distinct = {experiment.run: experiment for experiment in experiments}.values()
  flags.refuse_flags_without_effect([
    checks.settings_without_effect(experiment.run, experiment.task) for experiment in distinct])
  return list(distinct)


def requested_tasks(preset) -> list[tuple[TaskGrid, Task]]:
  """Pairs each requested task grid with its task at every requested distance in tokens."""
  return [
    (task_grid, task_at_distance(task, distance))
    for task_grid, task in requested_task_grids(preset)
    for distance in flags.requested_lengths() or task_grid.distances
  ]


def requested_task_grids(preset) -> list[tuple[TaskGrid, Task]]:
  """Returns the task grids that the flag --tasks names, or by default those of the preset."""
  if not flags.flag_was_set('tasks'):
    return [(task_grid, spec.parse_spec(task_grid.task, 'task'))
            for task_grid in preset.task_grids]
  return [pair for text in spec.split_specs(flags.FLAGS.tasks)
          for pair in _task_grids_for_spec(text, preset.task_grids)]


def _task_grids_for_spec(text: str, task_grids: Sequence[TaskGrid]) -> list[tuple[TaskGrid, Task]]:
  """Returns the preset's task grids for a task name, or a new task grid for any other spec."""
  families = [(task_grid.task.partition('(')[0], task_grid) for task_grid in task_grids]
  matching = [task_grid for family, task_grid in families if family == text]
  if matching:
    return [(task_grid, spec.parse_spec(task_grid.task, 'task')) for task_grid in matching]
  task = spec.parse_spec(text, 'task')
  settings = next(
    (task_grid.settings for family, task_grid in families if family == task.family), {})
  return [(TaskGrid(text, (task.distance,), settings), task)]


def task_at_distance(task: Task, distance: int) -> Task:
  """Returns a variant of the task with the given distance in tokens."""
  try:
    return task.with_distance(distance)
  except ValueError as error:
    valid = [f'{value}' for step in (-1, 1)
             if (value := _nearest_valid_distance(task, distance, step))]
    hint = f'; the nearest valid lengths are {" and ".join(valid)}' if valid else ''
    raise BadInput(
      f'--lengths={distance} is invalid for {spec.format_spec(task, "task")}, whose other options '
      f'scale with the length: {error}{hint}'
    ) from None


def _nearest_valid_distance(task: Task, distance: int, step: int) -> int | None:
  """The nearest valid distance in tokens above (step 1) or below (step -1) an invalid distance."""
  for value in range(max(1, distance + step), max(0, distance + SEARCHED_DISTANCES * step), step):
    with contextlib.suppress(ValueError):
      return task.with_distance(value).distance
  return None


def training_job(study: Study, experiments: Iterable[Experiment], measure_states=None) -> Job:
  """Creates the job that trains the given experiments.

  Args:
    study: the study that the cells belong to.
    experiments: the experiments, which are checked first.
    measure_states: function that measures the members' states during training, as for
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
    values.parallel, values.timeout, values.runs, values.save_weights, measure_states)
  return Job([training.training_cell(study.name, trained) for trained in experiments], execute)
