"""The cells of the ladder: every layer on every task, and the steps of all layers in turns."""

from experiments.lab.cells import timing
from experiments.lab.cells.cell import Cell
from experiments.lab.cells.experiment import Experiment
from experiments.lab.launch import flags, training_grid
from experiments.lab.launch.grid import Job
from experiments.lab.launch.study import Preset, Study
from experiments.ladder.tables import TIMED_LENGTH

ROUNDS = 7  # of timed steps


def jobs(study: Study, preset: Preset) -> list[Job]:
  """The cells that the flags ask for."""
  experiments = training_grid.grid(preset)
  execute = timing.time_cell(flags.FLAGS.timeout)
  return [
    training_grid.trained(study, experiments),
    Job([clock(study.name, experiments)], execute),
  ]


def clock(study: str, experiments: list[Experiment]) -> Cell:
  """The cell that times a training step of every layer among the experiments, in turns."""
  first = experiments[0].run
  asked = timing.asked(
    first, dict.fromkeys(one.run.layer for one in experiments), [TIMED_LENGTH], ['train'],
    tokens=first.batch_size * TIMED_LENGTH, rounds=ROUNDS,
  )
  return timing.cell_of(study, asked, first.seeds[0], 'steps of all layers in turns')
