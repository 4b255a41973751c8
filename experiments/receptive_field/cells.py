"""The cells of the study: stacks as they are initialised, and models trained around their edge."""

from experiments.lab.cells import checks, spec
from experiments.lab.cells.cell import Cell
from experiments.lab.cells.experiment import Experiment
from experiments.lab.errors import BadInput
from experiments.lab.launch import flags, training_grid
from experiments.lab.launch.grid import Job
from experiments.lab.launch.study import Study, TaskGrid
from experiments.lab.tasks.recall import Recall
from experiments.receptive_field import fields
from experiments.receptive_field.study import FieldPreset

PLACEHOLDER = Recall()  # stacks at the start read no task
DEPTH = 2  # of layers that a preset does not train


def jobs(study: Study, preset: FieldPreset) -> list[Job]:
  """The cells that the flags ask for."""
  cells = stacks(study.name, preset)
  return [training_grid.trained(study, grid(preset), fields.watch), Job(cells, fields.measure_cell)]


def asked(preset: FieldPreset) -> list | None:
  """The layers of --layers; None: the preset's own."""
  return spec.parse_all(flags.FLAGS.layers, 'layer') if flags.given('layers') else None


def stacks(study: str, preset: FieldPreset) -> list[Cell]:
  """The cells of stacks as they are initialised."""
  layers, sweeps = asked(preset), preset.sweeps
  if layers:
    sweeps = sweeps[:1]
  experiments = {}
  for sweep in sweeps:
    for block in sweep.blocks:
      for layer in layers or spec.parse_all(sweep.layers, 'layer'):
        for depth in sweep.depths:
          settings = preset.initialised | {'depth': depth, 'block': block} | flags.settings()
          one = training_grid.resolved(settings | {'match': 'none'}, layer, PLACEHOLDER)
          experiments[one.run] = one
  for one in experiments.values():
    checks.check(one)
  return [
    fields.cell_of(study, one, preset.length, preset.sequences) for one in experiments.values()
  ]


def around(field: int) -> tuple[int, ...]:
  """Distances half way to the edge of a field, last inside, first outside, and far beyond."""
  return (field - 1) // 2, field - 1, field, 2 * (field - 1)


def grid(preset: FieldPreset) -> list[Experiment]:
  """What is trained: at distances around every edge, or those of --lengths."""
  own = {layer: preset.trained[text] for text in preset.trained
         for layer in spec.parse_all((text,), 'layer')}
  models = [
    (layer, depth) for layer in asked(preset) or own for depth in own.get(layer, (DEPTH,))]
  experiments = []
  for question, task in training_grid.wanted(preset):
    edges = {
      model: fields.stack_of(trained(preset, question, *model, task)).receptive_field
      for model in models
    }
    outside = sorted(set(filter(None, edges.values())))
    if not outside and not flags.given('lengths'):
      raise BadInput('none of these layers has a field with an edge: --lengths says where to ask')
    for model, field in edges.items():
      distances = flags.lengths() or (around(field) if field else outside)
      experiments += [trained(preset, question, *model, training_grid.at(task, distance))
                for distance in distances]
  return training_grid.distinct(experiments)


def trained(preset: FieldPreset, question: TaskGrid, layer, depth: int, task) -> Experiment:
  """The experiment of a layer at a depth, or at that of --depth, on a task."""
  settings = preset.settings | question.settings | {'depth': depth} | flags.settings()
  return training_grid.resolved(settings, layer, task)
