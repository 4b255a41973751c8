"""Creates the grid cells of the parallelism study.

Each grid cell runs all measurements once, as one repetition.
"""

from baselines import LAYERS
from experiments.lab.cells import checks, spec, timing
from experiments.lab.cells.cell import Cell
from experiments.lab.errors import BadInput
from experiments.lab.launch import flags, timing_grid
from experiments.lab.launch.grid import Job
from experiments.lab.launch.study import Study
from experiments.parallelism.study import SIZES, ParallelismPreset


def jobs(study: Study, preset: ParallelismPreset) -> list[Job]:
  """Returns the job that measures the times of all requested layers and sequence lengths."""
  return [
    Job(
      create_grid_cell_for_each_seed(study.name, preset),
      timing.executor_for_timing_grid_cells(flags.FLAGS.timeout)),
  ]


def create_grid_cell_for_each_seed(study: str, preset: ParallelismPreset) -> list[Cell]:
  """Creates grid cells that measure all layers at all sequence lengths, one grid cell per seed.

  Raises a BadInput for invalid sizes, or if a flag was set that has no effect in this study.
  """
  run = timing_grid.apply_flags_to_timing_preset(
    preset.settings, (), 'one device is timed, at --tokens and --lengths')
  layers = spec.remove_default_options_from_specs(
    flags.FLAGS.layers if flags.flag_was_set('layers') else preset.layers or LAYERS, 'layer')
  if len(run.learning_rates) > 1:
    raise BadInput(
      '--learning_rates takes one value here, because the time of a step does not depend on it')
  sizes = {
    name: getattr(flags.FLAGS if flags.flag_was_set(name) else preset, name) for name in SIZES}
  timed_operations = [
    operation for operation in timing.QUANTITIES
    if preset.with_generation or operation != 'generate']
  settings = timing.timing_grid_cell_settings(
    run, layers, flags.requested_lengths() or preset.lengths, timed_operations,
    rounds=run.steps, **sizes)
  check_timing_settings(settings)
  return [
    timing.create_timing_grid_cell(study, settings, seed, f'repetition {seed}')
    for seed in run.seeds
  ]


def check_timing_settings(settings: dict) -> None:
  """Raises a BadInput unless sizes are positive and all lengths divide the number of tokens."""
  for name in SIZES:
    if settings[name] < 1:
      raise BadInput(f'--{name} must be at least 1, not {settings[name]}')
  for length in settings['lengths']:
    if settings['tokens'] % length:
      raise BadInput(
        f'--tokens={settings["tokens"]} is not a multiple of length {length}, so these tokens '
        'cannot be split into sequences of this length'
      )
    spec.parse_spec(timing.create_timing_run(settings, settings['layers'][0], length).task, 'task')
  for layer in settings['layers']:
    checks.check_experiment(
      timing.create_or_reuse_timing_experiment(settings, layer, settings['lengths'][0]))
