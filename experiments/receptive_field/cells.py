"""Experiments that measure receptive fields of layer stacks, before and during training."""

from experiments.lab.cells import checks, spec
from experiments.lab.cells.cell import Cell
from experiments.lab.cells.experiment import Experiment
from experiments.lab.errors import BadInput
from experiments.lab.launch import flags, training_grid
from experiments.lab.launch.grid import Job
from experiments.lab.launch.study import Study, TaskGrid
from experiments.lab.tasks.recall import Recall
from experiments.receptive_field import field_measurement
from experiments.receptive_field.study import ReceptiveFieldPreset

PLACEHOLDER = Recall()  # a run needs a task, but measurements at initialisation do not use it
DEPTH = 2  # of trained layers for which the preset has no depths


def jobs(study: Study, preset: ReceptiveFieldPreset) -> list[Job]:
  """Returns a job that measures receptive fields in training, and a job for untrained layers."""
  cells = create_experiment_grid_cells_for_untrained_models(study.name, preset)
  experiments = experiments_near_receptive_field_boundary(preset)
  return [
    training_grid.training_job(study, experiments, field_measurement.receptive_fields_in_training),
    Job(cells, field_measurement.measure_receptive_field_at_initialisation),
  ]


def _requested_layers() -> list | None:
  """The parsed layers of the flag --layers, or None if the flag is not set."""
  return spec.parse_spec_list(flags.FLAGS.layers, 'layer') if flags.flag_was_set('layers') else None


def create_experiment_grid_cells_for_untrained_models(
  study: str, preset: ReceptiveFieldPreset
) -> list[Cell]:
  """Creates a grid cell for each untrained layer stack whose receptive field is measured."""
  layers, sweeps = _requested_layers(), preset.sweeps
  if layers:
    sweeps = sweeps[:1]
  experiments = {}
  for sweep in sweeps:
    for block in sweep.blocks:
      for layer in layers or spec.parse_spec_list(sweep.layers, 'layer'):
        for depth in sweep.depths:
          settings = preset.initialised | {'depth': depth, 'block': block}
          settings |= flags.requested_settings() | {'match': 'none'}
          experiment = training_grid.experiment_from_settings(settings, layer, PLACEHOLDER)
          experiments[experiment.run] = experiment
  for experiment in experiments.values():
    checks.check_experiment(experiment)
  return [
    field_measurement.create_experiment_grid_cell_for_untrained_model(
      study, experiment, preset.length, preset.sequences)
    for experiment in experiments.values()
  ]


def distances_near_receptive_field_boundary(receptive_field: int) -> tuple[int, ...]:
  """Returns four distances in tokens, two inside a receptive field and two outside it."""
  largest_distance = receptive_field - 1
  return largest_distance // 2, largest_distance, receptive_field, 2 * largest_distance


def experiments_near_receptive_field_boundary(preset: ReceptiveFieldPreset) -> list[Experiment]:
  """Experiments on tasks with dependency distances within and beyond a model's receptive field.

  The flag --lengths replaces these distances. Without it a model with an unbounded field is trained
  at the first distances outside the fields of the other models.
  """
  depths = {layer: preset.trained[text] for text in preset.trained
            for layer in spec.parse_spec_list((text,), 'layer')}
  models = [(layer, depth) for layer in _requested_layers() or depths
            for depth in depths.get(layer, (DEPTH,))]
  experiments = []
  for task_grid, task in training_grid.requested_task_grids(preset):
    fields = {}
    for model in models:
      experiment = _training_experiment(preset, task_grid, *model, task)
      fields[model] = field_measurement.residual_stack_of_model(experiment).receptive_field
    outside = sorted(set(filter(None, fields.values())))
    if not outside and not flags.flag_was_set('lengths'):
      raise BadInput('none of these layers has a bounded receptive field, so --lengths is needed')
    for model, field in fields.items():
      distances = flags.requested_lengths() or (
        distances_near_receptive_field_boundary(field) if field else outside)
      tasks = (
        training_grid.task_with_dependency_distance(task, distance) for distance in distances)
      experiments += [_training_experiment(preset, task_grid, *model, task) for task in tasks]
  return training_grid.distinct_experiments(experiments)


def _training_experiment(
  preset: ReceptiveFieldPreset, task_grid: TaskGrid, layer, depth: int, task
) -> Experiment:
  """The experiment that trains a layer on a task. The flag --depth overrides `depth`."""
  settings = preset.settings | task_grid.settings | {'depth': depth} | flags.requested_settings()
  return training_grid.experiment_from_settings(settings, layer, task)
