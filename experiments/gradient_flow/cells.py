"""Experiments that measure gradient norms of untrained models and of models in training."""

import itertools
from collections.abc import Iterable

from baselines import LAYERS
from experiments.gradient_flow import gradient_norms
from experiments.gradient_flow.study import GradientPreset, LayerGrid
from experiments.lab.cells import checks, spec
from experiments.lab.cells.cell import Cell
from experiments.lab.cells.experiment import Experiment
from experiments.lab.launch import flags, training_grid
from experiments.lab.launch.grid import Job
from experiments.lab.launch.study import Study


def jobs(study: Study, preset: GradientPreset) -> list[Job]:
  """Returns a job that measures gradient norms in training, and a job for untrained models."""
  cells = create_experiment_grid_cells_for_untrained_models(study.name, preset)
  experiments = training_experiments(preset)
  return [
    training_grid.training_job(study, experiments, gradient_norms.gradient_norms_in_training),
    Job(cells, gradient_norms.measure_gradient_norms_at_initialisation),
  ]


def _iterate_layers_and_setting_combinations(layer_grids: Iterable[LayerGrid]):
  """Yields every layer of each grid, with every combination of the settings that the grid varies.

  The flag --layers replaces the layers of the grids.
  """
  for grid in layer_grids:
    layers = flags.FLAGS.layers if flags.flag_was_set('layers') else grid.layers or tuple(LAYERS)
    for layer in spec.parse_spec_list(layers, 'layer'):
      for values in itertools.product(*grid.varied.values()):
        yield layer, dict(zip(grid.varied, values, strict=True))


def create_experiment_grid_cells_for_untrained_models(
  study: str, preset: GradientPreset
) -> list[Cell]:
  """Creates a grid cell for each untrained model whose gradient norms are measured.

  A model is a single layer without a residual block unless the settings of its grid differ.
  """
  cells = []
  for length in flags.requested_lengths() or (preset.length,):
    for layer, varied in _iterate_layers_and_setting_combinations(preset.untrained):
      single_layer = {'block': 'plain', 'depth': len(layer.layer_pattern)}
      settings = preset.settings | single_layer | varied | flags.requested_settings()
      run = flags.create_run(settings | {'layer': spec.component_to_spec_string(layer, 'layer')})
      measurement = gradient_norms.measurement_settings(run, length)
      cell = gradient_norms.create_experiment_grid_cell_for_untrained_model(
        study, measurement, layer)
      if cell not in cells:
        checks.check_experiment(cell.experiment)
        cells.append(cell)
  return cells


def training_experiments(preset: GradientPreset) -> list[Experiment]:
  """The experiments that train every layer of a preset on every task of the preset."""
  return training_grid.distinct_experiments(
    training_grid.experiment_from_settings(
      preset.settings | task_grid.settings | varied | flags.requested_settings(), layer, task)
    for task_grid, task in training_grid.requested_tasks(preset)
    for layer, varied in _iterate_layers_and_setting_combinations(preset.trained)
  )
