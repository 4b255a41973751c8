"""The cells of the study: every row of the table on every task."""

from experiments.lab.cells import spec
from experiments.lab.cells.experiment import Experiment
from experiments.lab.errors import BadInput, no_such
from experiments.lab.launch import flags, training_grid
from experiments.lab.launch.grid import Job
from experiments.lab.launch.study import Preset, Study
from experiments.variations.tables import variation
from transformer.presets import TABLE_3

OF_ROWS = ('expansion', 'dropout', 'label_smoothing')


def jobs(study: Study, preset: Preset) -> list[Job]:
  """The cells that the flags ask for."""
  return [training_grid.trained(study, grid(preset))]


def grid(preset: Preset) -> list[Experiment]:
  """The experiments that the flags ask for; --layers names rows."""
  for name in OF_ROWS:
    if flags.given(name):
      raise BadInput(f'--{name} changes nothing here: every row of the table has its own')
  wanted = spec.split(flags.FLAGS.layers) if flags.given('layers') else preset.layers
  for row in wanted:
    if row not in TABLE_3:
      raise no_such('row', row, TABLE_3)
  base = preset.settings | flags.settings()
  sizes = {name: base[name] for name in ('width', 'depth', 'steps')}
  rows = [variation(TABLE_3[row], **sizes) for row in wanted]
  layers = {row['layer']: spec.parse(row['layer'], 'translator') for row in rows}
  return training_grid.distinct(
    training_grid.resolved(base | row, layers[row['layer']], task)
    for _, task in training_grid.tasks_of(preset)
    for row in rows
  )
