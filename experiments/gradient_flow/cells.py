"""The cells of the study: layers at initialisation, and layers watched while they train."""

import itertools
from collections.abc import Iterable

from baselines import LAYERS
from experiments.gradient_flow import flow
from experiments.gradient_flow.study import GradientPreset, Grid
from experiments.lab.cells import checks, spec
from experiments.lab.cells.cell import Cell
from experiments.lab.cells.experiment import Experiment
from experiments.lab.launch import flags, training_grid
from experiments.lab.launch.grid import Job
from experiments.lab.launch.study import Study


def jobs(study: Study, preset: GradientPreset) -> list[Job]:
  """The cells that the flags ask for."""
  cells = starts(study.name, preset)
  return [training_grid.trained(study, grid(preset), flow.watch), Job(cells, flow.measure_cell)]


def expand(grids: Iterable[Grid]):
  """Every layer, or every one of --layers, with each combination of settings of its grid."""
  for one in grids:
    asked = flags.FLAGS.layers if flags.given('layers') else one.layers or tuple(LAYERS)
    for layer in spec.parse_all(asked, 'layer'):
      for values in itertools.product(*one.varied.values()):
        yield layer, dict(zip(one.varied, values, strict=True))


def starts(study: str, preset: GradientPreset) -> list[Cell]:
  """The cells before training: a layer by itself unless a grid says otherwise."""
  cells = []
  for length in flags.lengths() or (preset.length,):
    for layer, varied in expand(preset.start):
      alone = {'block': 'plain', 'depth': len(layer.pattern)}
      settings = preset.settings | alone | varied | flags.settings()
      run = flags.make_run(**settings | {'layer': spec.describe(layer, 'layer')})
      cell = flow.cell_of(study, flow.asked(run, length), layer)
      if cell not in cells:
        checks.check(cell.experiment)
        cells.append(cell)
  return cells


def grid(preset: GradientPreset) -> list[Experiment]:
  """What is trained."""
  return training_grid.distinct(
    training_grid.resolved(
      preset.settings | question.settings | varied | flags.settings(), layer, task)
    for question, task in training_grid.tasks_of(preset)
    for layer, varied in expand(preset.trained)
  )
