"""Grid cells that count the operations of layers or measure the time of their training steps."""

from baselines import LAYERS
from experiments.complexity import layer_counts
from experiments.complexity.study import ComplexityPreset
from experiments.complexity.table_1 import COUNTED, IMPLEMENTATIONS, PAPER
from experiments.lab.cells import checks, environment, spec, timing
from experiments.lab.cells.cell import Cell
from experiments.lab.errors import BadInput
from experiments.lab.launch import flags, timing_grid
from experiments.lab.launch.grid import Job
from experiments.lab.launch.study import Study


def jobs(study: Study, preset: ComplexityPreset) -> list[Job]:
  """A job that counts operations, and a job that measures durations unless --nomeasure is set."""
  given = flags.FLAGS
  workers = environment.degree_of_parallelism(given.workers)
  counting = create_operation_count_grid_cells(study.name, preset)
  requested_jobs = [Job(counting, layer_counts.count_layer_operations_at_all_sizes, workers)]
  if not given.measure:
    for name in flags.requested_settings():
      raise BadInput(f'--{name} has no effect with --nomeasure, since it applies to timed cells')
  else:
    executor = timing.executor_for_timing_grid_cells(given.timeout)
    requested_jobs.append(Job(create_timing_grid_cells(study.name, preset), executor))
  return requested_jobs


def requested_layers(preset: ComplexityPreset) -> list[str]:
  """Returns the layer specs of the flag --layers, or those of the preset if it is not set.

  A preset without layer specs selects all layers, which are those of Table 1 of the paper,
  followed by the others in the order of LAYERS.
  """
  if flags.flag_was_set('layers'):
    return spec.remove_default_options_from_specs(flags.FLAGS.layers, 'layer')
  return spec.remove_default_options_from_specs(preset.layers or tuple(PAPER | LAYERS), 'layer')


def create_operation_count_grid_cells(study: str, preset: ComplexityPreset) -> list[Cell]:
  """Creates one grid cell to count the operations of each layer on each platform, GPU or CPU."""
  cells = []
  for layer in requested_layers(preset):
    (counted,) = spec.remove_default_options_from_specs((COUNTED.get(layer, layer),), 'layer')
    for platform, description in IMPLEMENTATIONS.items():
      # CPU operation counts are fitted only as functions of the length, so one width suffices.
      widths = preset.widths if platform == next(iter(IMPLEMENTATIONS)) else preset.widths[:1]
      run = layer_counts.operation_count_settings(
        counted, platform, preset.counted_lengths, widths, preset.path_lengths)
      layer_counts.check_widths(run)
      cells.append(Cell(study, run, f'counting {layer} {description}'))
  return cells


def create_timing_grid_cells(study: str, preset: ComplexityPreset) -> list[Cell]:
  """Creates one grid cell for each repetition of the timing of all layers at all lengths."""
  run = timing_grid.apply_flags_to_timing_preset(
    preset.settings, ('learning_rates',), 'nothing is trained')
  sizes = {name: getattr(preset, name) for name in ('tokens', 'sequences', 'generated')}
  lengths = flags.requested_lengths() or preset.lengths
  for length in lengths:
    if preset.tokens % length:
      raise BadInput(f'{preset.tokens} tokens per step are not a multiple of length {length}')
  settings = timing.timing_grid_cell_settings(
    run, requested_layers(preset), lengths, ('train', 'generate'), rounds=run.steps, **sizes
  )
  for layer in settings['layers']:
    checks.check_experiment(timing.create_or_reuse_timing_experiment(settings, layer, lengths[0]))
  return [
    timing.create_timing_grid_cell(study, settings, seed, f'repetition {seed}')
    for seed in run.seeds
  ]
