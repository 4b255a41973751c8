"""The cells of the study: repetitions of each comparison."""

import dataclasses
import os

import jax

from experiments.lab.cells import environment
from experiments.lab.cells.cell import Cell
from experiments.lab.cells.run import Run
from experiments.lab.errors import BadInput, no_such
from experiments.lab.launch import flags
from experiments.lab.launch.grid import Job
from experiments.lab.launch.study import Study
from experiments.speed import contest, pytorch
from experiments.speed.comparison import TITLES, title
from experiments.speed.contests import CONTESTS
from experiments.speed.study import SpeedPreset
from experiments.speed.tables import LARGE_PAGES


def jobs(study: Study, preset: SpeedPreset) -> list[Job]:
  """The cells that the flags ask for."""
  return [Job(grid(study.name, preset), contest.time_cell(CONTESTS, flags.FLAGS.timeout))]


def grid(study: str, preset: SpeedPreset) -> list[Cell]:
  """The cells that the flags ask for, one a repetition of a comparison."""
  recipe = {field.name for field in dataclasses.fields(Run)} - {'steps', 'seeds'}
  for name in sorted({'layers', 'lengths', 'parallel', *recipe}):
    if name in flags.FLAGS and flags.given(name):
      raise BadInput(f'--{name} means nothing here: comparisons have their sizes in the preset')
  chosen = flags.FLAGS.compare.split(',') if flags.given('compare') else list(TITLES)
  for name in chosen:
    if name not in TITLES:
      raise no_such('comparison', name, TITLES)
  run = flags.make_run(**preset.settings | flags.settings())
  shared = {
    'peak': list(preset.peak),
    'rounds': run.steps,
    'torch': pytorch.version(),
    'devices': jax.device_count(),
    'large_pages': LARGE_PAGES in os.environ.get('GLIBC_TUNABLES', ''),
    'device': environment.device(),
  }
  return [
    Cell(
      study,
      shared | {
        'what': one.what, 'sizes': dict(one.sizes), 'timed': one.timed, 'seed': seed},
      title(one.what, one.sizes),
    )
    for seed in run.seeds for one in preset.comparisons if one.what in chosen
  ]
