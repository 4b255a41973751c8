"""What a run may be: what changes nothing in it, and what does not suit."""

import dataclasses

import jax

from experiments.lab.cells import models, sizes, spec
from experiments.lab.cells.experiment import Experiment
from experiments.lab.cells.run import Run
from experiments.lab.errors import BadInput
from experiments.lab.tasks.task import Task


def without_effect(run: Run, task: Task) -> dict[str, str]:
  """The settings that change nothing in a run -> why."""
  reasons = {}
  if run.optimizer != 'adamw':
    reasons['weight_decay'] = f'{run.optimizer} decays no weights, --optimizer=adamw does'
  if run.feedforward == 'none':
    reasons['expansion'] = 'it is the width of a feed-forward network, and --feedforward=none'
  if task.answered_by != 'translator':
    reasons['beam'] = reasons['length_penalty'] = f'{task.family} is answered without decoding'
  elif run.beam == 1:
    reasons['length_penalty'] = 'it is that of a beam search, and --beam=1 is greedy'
  if task.solved is None:
    reasons['stop_when_solved'] = f'{task.family} has no score at which it counts as solved'
  if task.outputs.kind == 'reals':
    reasons['label_smoothing'] = f'{task.family} is answered by a number'
  return reasons


def neutral(run: Run, task: Task) -> Run:
  """The run with what changes nothing in it at its default, so that it makes no second cell."""
  fields = {field.name: field.default for field in dataclasses.fields(Run)}
  return dataclasses.replace(run, **{name: fields[name] for name in without_effect(run, task)})


def check(experiment: Experiment) -> None:
  """A BadInput for what a run cannot be: widths or lengths that do not suit, absurd sizes."""
  run, task, layer = experiment.run, experiment.task, experiment.layer
  try:
    for each in (task, *experiment.extrapolation_tasks):
      fits(run, layer, each)
    own = experiment.width_multiple  # what is matched is at least as wide
    suited = {layer: own if run.match == 'params' else run.width}
    if run.match == 'params':
      suited[experiment.reference] = run.width
    for each, width in suited.items():
      suits(run, each, task, width)
      sizes.check(run, getattr(each, 'layer', each), task, models.shapes_of(task), width)
  except ValueError as error:
    raise BadInput(str(error)) from None


def suits(run: Run, layer, task: Task, width: int) -> None:
  """A BadInput for a width that a layer's model cannot have."""
  multiple = models.width_multiple(run, layer, task)
  if width % multiple:
    raise BadInput(
      f'--width={width} does not suit {spec.describe(layer, task.answered_by)}: '
      f'it takes multiples of {multiple}'
    )


def fits(run: Run, layer, task: Task) -> None:
  """A BadInput if a task's sequences are longer than the positions that a run's model has."""
  if not all(getattr(part, 'causal', True) for part in getattr(layer, 'pattern', ())):
    raise BadInput(f'{run.layer} reads what comes after a token: that is for encoders')
  positions = getattr(getattr(layer, 'layer', layer), 'positions', None)
  most = getattr(positions, 'max_length', None)
  length = jax.tree.map(lambda x: x.shape[1], models.shapes_of(task))
  if most is not None and max(length) > most:
    raise BadInput(
      f'{spec.describe(task, "task")} has sequences of {max(length)} tokens, '
      f'but {run.layer} has positions for {most}'
    )
