"""Experiment grid of the speed study, with one grid cell per comparison and seed."""

import dataclasses
import os

import jax

from experiments.lab.cells import environment
from experiments.lab.cells.cell import Cell
from experiments.lab.cells.run import Run
from experiments.lab.errors import BadInput, unknown_name_error
from experiments.lab.launch import flags
from experiments.lab.launch.grid import Job
from experiments.lab.launch.study import Study
from experiments.speed import benchmark
from experiments.speed.benchmarks import BENCHMARKS
from experiments.speed.comparison import TITLES, comparison_title
from experiments.speed.pytorch import execution
from experiments.speed.study import SpeedPreset
from experiments.speed.tables import LARGE_PAGES


def jobs(study: Study, preset: SpeedPreset) -> list[Job]:
  """Returns the job that runs the comparisons requested by the command-line flags."""
  run_cell = benchmark.benchmark_runner(BENCHMARKS, flags.FLAGS.timeout)
  return [Job(create_comparison_grid_cells(study.name, preset), run_cell)]


def create_comparison_grid_cells(study: str, preset: SpeedPreset) -> list[Cell]:
  """Creates a grid cell for every requested comparison and seed.

  Raises a BadInput if a flag was set that has no effect in this study.
  """
  recipe = {field.name for field in dataclasses.fields(Run)} - {'steps', 'seeds'}
  for name in sorted({'layers', 'lengths', 'parallel', *recipe}):
    if name in flags.FLAGS and flags.flag_was_set(name):
      raise BadInput(f'--{name} has no effect here: the preset fixes the sizes of each comparison')
  selected = flags.FLAGS.compare.split(',') if flags.flag_was_set('compare') else list(TITLES)
  for name in selected:
    if name not in TITLES:
      raise unknown_name_error('comparison', name, TITLES)
  run = flags.create_run(preset.settings | flags.requested_settings())
  shared = {
    'peak': list(preset.peak),
    'rounds': run.steps,
    'torch': execution.installed_torch_version(),
    'devices': jax.device_count(),
    'large_pages': LARGE_PAGES in os.environ.get('GLIBC_TUNABLES', ''),
    'device': environment.device_name(),
  }
  return [
    Cell(
      study,
      shared | {
        'benchmark': comparison.benchmark, 'sizes': dict(comparison.sizes),
        'timed': comparison.timed, 'seed': seed},
      comparison_title(comparison.benchmark, comparison.sizes),
    )
    for seed in run.seeds
    for comparison in preset.comparisons if comparison.benchmark in selected
  ]
