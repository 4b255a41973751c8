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

# On a CPU a compiled program has about 280 memory mappings, and Linux permits 65,530 in a process.
# A process with more of them crashes.
MAX_PROGRAMS = 200


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
  settings = timing.timing_grid_cell_settings(
    run, layers, flags.requested_lengths() or preset.lengths,
    preset.timed_operations or timing.QUANTITIES, rounds=run.steps, **sizes)
  check_timing_settings(settings)
  return [
    timing.create_timing_grid_cell(study, settings, seed, f'repetition {seed}')
    for seed in run.seeds
  ]


def check_timing_settings(settings: dict) -> None:
  """Raises a BadInput for sizes that form no batch, or for too many programs in one process."""
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
  programs = len(settings['layers']) * len(settings['lengths']) * len(settings['quantities'])
  if programs > MAX_PROGRAMS:
    raise BadInput(
      f'{len(settings["layers"])} layers at {len(settings["lengths"])} lengths need {programs} '
      f'compiled programs at once, but a process can hold about {MAX_PROGRAMS}; choose fewer '
      '--layers or --lengths'
    )
  for layer in settings['layers']:
    checks.check_experiment(
      timing.create_or_reuse_timing_experiment(settings, layer, settings['lengths'][0]))
