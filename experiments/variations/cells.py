"""Experiments that train the model of every row of Table 3 of Vaswani 2017 on every task."""

from experiments.lab.cells import spec
from experiments.lab.cells.experiment import Experiment
from experiments.lab.errors import BadInput, unknown_name_error
from experiments.lab.launch import flags, training_grid
from experiments.lab.launch.grid import Job
from experiments.lab.launch.study import Preset, Study
from experiments.variations.tables import settings_of_vaswani_table_3_row
from transformer.presets import TABLE_3

ROW_SETTINGS = ('expansion', 'dropout', 'label_smoothing')


def jobs(study: Study, preset: Preset) -> list[Job]:
  """Returns the job that trains the models in the requested rows of Table 3 of Vaswani 2017."""
  return [training_grid.training_job(study, experiments_of_vaswani_table_3(preset))]


def experiments_of_vaswani_table_3(preset: Preset) -> list[Experiment]:
  """The experiments that train the requested models of Table 3 of Vaswani 2017 on every task."""
  for name in ROW_SETTINGS:
    if flags.flag_was_set(name):
      raise BadInput(f'--{name} has no effect here, because every row of Table 3 has its own value')
  names = spec.split_specs(flags.FLAGS.layers) if flags.flag_was_set('layers') else preset.layers
  for row in names:
    if row not in TABLE_3:
      raise unknown_name_error('row', row, TABLE_3)
  base = preset.settings | flags.requested_settings()
  sizes = {name: base[name] for name in ('width', 'depth', 'steps')}
  rows = [settings_of_vaswani_table_3_row(TABLE_3[row], **sizes) for row in names]
  layers = {row['layer']: spec.parse_spec(row['layer'], 'translator') for row in rows}
  return training_grid.distinct_experiments(
    training_grid.experiment_from_settings(base | row, layers[row['layer']], task)
    for _, task in training_grid.requested_tasks(preset)
    for row in rows
  )
