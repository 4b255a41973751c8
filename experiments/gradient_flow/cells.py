"""Grid cells that measure gradient norms of untrained models and of models in training."""

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
  cells, experiments = initial_gradient_cells(study.name, preset), training_experiments(preset)
  return [
    training_grid.training_job(study, experiments, gradient_norms.gradient_norms_in_training),
    Job(cells, gradient_norms.measure_gradient_norms_of_grid_cell),
  ]


def _layers_with_varied_settings(grids: Iterable[LayerGrid]):
  """Yields every pair of a layer and a combination of the varied settings of its grid.

  The flag --layers replaces the layers of the grids.
  """
  for grid in grids:
    layers = flags.FLAGS.layers if flags.flag_was_set('layers') else grid.layers or tuple(LAYERS)
    for layer in spec.parse_spec_list(layers, 'layer'):
      for values in itertools.product(*grid.varied.values()):
        yield layer, dict(zip(grid.varied, values, strict=True))


def initial_gradient_cells(study: str, preset: GradientPreset) -> list[Cell]:
  """The grid cells that measure gradient norms of the untrained models of a preset.

  A model is a single layer without a residual block unless the settings of its grid differ.
  """
  cells = []
  for length in flags.requested_lengths() or (preset.length,):
    for layer, varied in _layers_with_varied_settings(preset.untrained):
      single_layer = {'block': 'plain', 'depth': len(layer.layer_pattern)}
      settings = preset.settings | single_layer | varied | flags.requested_settings()
      run = flags.make_run(**settings | {'layer': spec.format_spec(layer, 'layer')})
      measurement = gradient_norms.measurement_settings(run, length)
      cell = gradient_norms.initial_gradient_cell(study, measurement, layer)
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
    for layer, varied in _layers_with_varied_settings(preset.trained)
  )
