"""Detection of invalid widths, lengths and sizes and of unused settings in a run."""

import dataclasses

import jax

from experiments.lab.cells import models, sizes, spec
from experiments.lab.cells.experiment import Experiment
from experiments.lab.cells.run import Run
from experiments.lab.errors import BadInput
from experiments.lab.tasks.task import Task


def settings_without_effect(run: Run, task: Task) -> dict[str, str]:
  """Returns the settings that do not affect the results of a run, with the reason for each."""
  reasons = {}
  if run.optimizer != 'adamw':
    reasons['weight_decay'] = f'{run.optimizer} applies no weight decay, use --optimizer=adamw'
  if run.feedforward == 'none':
    reasons['expansion'] = 'with --feedforward=none the model has no feed-forward network'
  if task.model_kind != 'translator':
    reasons['beam'] = reasons['length_penalty'] = f'{task.family} is scored without decoding'
  elif run.beam == 1:
    reasons['length_penalty'] = 'it applies to beam search, but --beam=1 decodes greedily'
  if task.solved is None:
    reasons['stop_when_solved'] = f'{task.family} defines no score at which training may stop'
  if task.output_space.kind == 'reals':
    reasons['label_smoothing'] = f'the targets of {task.family} are real numbers, not classes'
  return reasons


def reset_unused_settings(run: Run, task: Task) -> Run:
  """Resets unused settings to their defaults, so that equivalent runs share one grid cell."""
  defaults = {field.name: field.default for field in dataclasses.fields(Run)}
  unused = settings_without_effect(run, task)
  return dataclasses.replace(run, **{name: defaults[name] for name in unused})


def check_experiment(experiment: Experiment) -> None:
  """Raises BadInput if an experiment's model width, sequence length or memory use is invalid."""
  run, task, layer = experiment.run, experiment.task, experiment.layer
  try:
    for tested_task in (task, *experiment.extrapolation_tasks):
      _check_causality_and_sequence_length(run, layer, tested_task)
    divisor = experiment.required_width_divisor  # the matched width is at least as large
    widths = {layer: divisor if run.match == 'params' else run.width}
    if run.match == 'params':
      widths[experiment.layer_that_sets_parameter_budget] = run.width
    for component, width in widths.items():
      _check_width(run, component, task, width)
      sequence_layer = getattr(component, 'layer', component)
      sizes.check_memory_limit(run, sequence_layer, task, models.batch_shapes(task), width)
  except ValueError as error:
    raise BadInput(str(error)) from None


def _check_width(run: Run, layer, task: Task, width: int) -> None:
  """Raises BadInput if the model width is not a multiple of the divisor that the layer requires."""
  divisor = models.required_model_width_divisor(run, layer, task)
  if width % divisor:
    raise BadInput(
      f'--width={width} is invalid for {spec.component_to_spec_string(layer, task.model_kind)}: '
      f'the width must be a multiple of {divisor}'
    )


def _check_causality_and_sequence_length(run: Run, layer, task: Task) -> None:
  """Raises BadInput if a layer is not causal or does not support sequences of the task's length."""
  if not all(getattr(part, 'causal', True) for part in getattr(layer, 'layer_pattern', ())):
    raise BadInput(f'{run.layer} attends to later tokens, which only an encoder may do')
  positions = getattr(getattr(layer, 'layer', layer), 'positions', None)
  max_length = getattr(positions, 'max_length', None)
  length = jax.tree.map(lambda x: x.shape[1], models.batch_shapes(task))
  if max_length is not None and max(length) > max_length:
    raise BadInput(
      f'{spec.component_to_spec_string(task, "task")} has sequences of {max(length)} tokens, '
      f'but {run.layer} supports at most {max_length}'
    )
