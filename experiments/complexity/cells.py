"""The cells of the study: layers counted in each of their forms, and repetitions of timed steps."""

from baselines import LAYERS
from experiments.complexity import counting
from experiments.complexity.study import ComplexityPreset
from experiments.complexity.table_1 import COUNTED, FORMS, PAPER
from experiments.lab.cells import checks, environment, spec, timing
from experiments.lab.cells.cell import Cell
from experiments.lab.errors import BadInput
from experiments.lab.launch import flags, timing_grid
from experiments.lab.launch.grid import Job
from experiments.lab.launch.study import Study


def jobs(study: Study, preset: ComplexityPreset) -> list[Job]:
  """The cells that the flags ask for."""
  given = flags.FLAGS
  workers = environment.one_a_core(given.workers)
  made = [Job(counting_cells(study.name, preset), counting.count_cell, workers)]
  if not given.measure:
    for name in flags.settings():
      raise BadInput(f'--{name} changes nothing here: it is of what is timed, and --nomeasure')
  else:
    made.append(Job(timing_cells(study.name, preset), timing.time_cell(given.timeout)))
  return made


def layers(preset: ComplexityPreset) -> list[str]:
  """The layers that are asked for, in the paper's order and then the catalogue's."""
  if flags.given('layers'):
    return spec.canonical(flags.FLAGS.layers, 'layer')
  return spec.canonical(preset.layers or tuple(PAPER | LAYERS), 'layer')


def counting_cells(study: str, preset: ComplexityPreset) -> list[Cell]:
  """A cell for each layer in each of the forms."""
  cells = []
  for layer in layers(preset):
    (counted,) = spec.canonical((COUNTED.get(layer, layer),), 'layer')
    for platform, words in FORMS.items():
      # Laws in the width are those of the first form: of the others, the chains are what differs.
      widths = preset.widths if platform == next(iter(FORMS)) else preset.widths[:1]
      run = counting.asked(
        counted, platform, preset.counted_lengths, widths, preset.path_lengths)
      counting.check(run)
      cells.append(Cell(study, run, f'counting {layer} {words}'))
  return cells


def timing_cells(study: str, preset: ComplexityPreset) -> list[Cell]:
  """A cell for each repetition of all layers at all lengths."""
  run = timing_grid.settings(preset.settings, 'nothing is trained', ('learning_rates',))
  sizes = {name: getattr(preset, name) for name in ('tokens', 'sequences', 'generated')}
  lengths = flags.lengths() or preset.lengths
  for length in lengths:
    if preset.tokens % length:
      raise BadInput(f'{preset.tokens} tokens a step are no multiple of length {length}')
  asked = timing.asked(
    run, layers(preset), lengths, ('train', 'generate'), rounds=run.steps, **sizes
  )
  for layer in asked['layers']:
    checks.check(timing.resolved(asked, layer, lengths[0]))
  return [timing.cell_of(study, asked, seed, f'repetition {seed}') for seed in run.seeds]
