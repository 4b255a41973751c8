"""Grid cells that train layers on tasks, and a grid cell that measures training-step times."""

from experiments.lab.cells import timing
from experiments.lab.cells.cell import Cell
from experiments.lab.cells.experiment import Experiment
from experiments.lab.launch import flags, training_grid
from experiments.lab.launch.grid import Job
from experiments.lab.launch.study import Preset, Study
from experiments.ladder.tables import TIMED_LENGTH

TIMING_ROUNDS = 7


def jobs(study: Study, preset: Preset) -> list[Job]:
  """Returns a job that trains models of each layer type, and a job that times training steps."""
  experiments = training_grid.requested_experiments(preset)
  execute = timing.executor_for_timing_grid_cells(flags.FLAGS.timeout)
  return [
    training_grid.training_job(study, experiments),
    Job([_create_timing_grid_cell(study.name, experiments)], execute),
  ]


def _create_timing_grid_cell(study: str, experiments: list[Experiment]) -> Cell:
  """The grid cell that measures training-step times of all layers in interleaved rounds."""
  first = experiments[0].run
  settings = timing.timing_grid_cell_settings(
    first, dict.fromkeys(e.run.layer for e in experiments), [TIMED_LENGTH], ['train'],
    tokens=first.batch_size * TIMED_LENGTH, rounds=TIMING_ROUNDS,
  )
  return timing.create_timing_grid_cell(
    study, settings, first.seeds[0], 'training steps of all layers')
