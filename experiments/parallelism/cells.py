"""The cells of the study: repetitions of all layers at all lengths, in turns."""

from experiments.lab.cells import checks, spec, timing
from experiments.lab.cells.cell import Cell
from experiments.lab.errors import BadInput
from experiments.lab.launch import flags, timing_grid
from experiments.lab.launch.grid import Job
from experiments.lab.launch.study import Study
from experiments.parallelism.study import SIZES, ParallelismPreset


def jobs(study: Study, preset: ParallelismPreset) -> list[Job]:
  """The cells that the flags ask for."""
  return [Job(grid(study.name, preset), timing.time_cell(flags.FLAGS.timeout))]


def grid(study: str, preset: ParallelismPreset) -> list[Cell]:
  """The cells that the flags ask for, one a repetition."""
  run = timing_grid.settings(
    preset.settings, 'one device is timed, at --tokens and --lengths')
  layers = spec.canonical(flags.FLAGS.layers if flags.given('layers') else preset.layers, 'layer')
  if len(run.learning_rates) > 1:
    raise BadInput('--learning_rates takes one here: the time of a step does not depend on it')
  sizes = {name: getattr(flags.FLAGS if flags.given(name) else preset, name) for name in SIZES}
  asked = timing.asked(
    run, layers, flags.lengths() or preset.lengths, timing.QUANTITIES, rounds=run.steps, **sizes
  )
  check(asked)
  return [timing.cell_of(study, asked, seed, f'repetition {seed}') for seed in run.seeds]


def check(asked: dict) -> None:
  """A BadInput for sizes or lengths that make no batches."""
  for name in SIZES:
    if asked[name] < 1:
      raise BadInput(f'--{name} is 1 or more, not {asked[name]}')
  for length in asked['lengths']:
    if asked['tokens'] % length:
      raise BadInput(
        f'--tokens={asked["tokens"]} is no multiple of length {length}: sequences stay whole'
      )
    spec.parse(timing.run_of(asked, asked['layers'][0], length).task, 'task')
  for layer in asked['layers']:
    checks.check(timing.resolved(asked, layer, asked['lengths'][0]))
