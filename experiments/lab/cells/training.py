"""Grid cells that train and score all seeds and learning rates of a run as one ensemble.

The learning rate is selected by the mean of the validation metric over seeds. The score is the test
metric at that rate. The test metrics of the other rates are stored too, but select nothing.
"""

import dataclasses
import functools
import itertools
import math
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from experiments.lab.cells import artifacts, models, sizes
from experiments.lab.cells.cell import Cell, Outcome
from experiments.lab.cells.experiment import Experiment
from experiments.lab.tasks.task import Task
from experiments.lab.training import streaming
from experiments.lab.training.checkpoints import Checkpoints
from experiments.lab.training.ensemble import Ensemble
from experiments.lab.training.loop import Member, train
from experiments.lab.training.step import Training
from experiments.lab.training.streaming import StreamingEnsemble
from experiments.lab.weights import safetensors


def create_training_grid_cell(study: str, experiment: Experiment) -> Cell:
  """Creates the grid cell that trains an experiment's model with all seeds and learning rates."""
  run = experiment.run
  label, expected = f'{run.layer} on {run.task}', {'budget': experiment.parameter_budget}
  return Cell(study, run.to_json_values(), label, experiment, expected=expected)


def training_executor(
  parallel: str, timeout: float, folder: str, save_weights: bool = False,
  metrics_callback: Callable[[Training, Any], dict] | None = None,
):
  """Returns a function that trains and scores all ensemble members of a training grid cell.

  Args:
    parallel: distribution of the members over devices, 'jit' or 'pmap'.
    timeout: seconds after which training stops early.
    folder: folder for checkpoints and weights.
    save_weights: whether the parameters at the selected learning rate are saved.
    metrics_callback: function of the training and the members' states [members, ...], called before
      the first step and after each validation. The record contains the returned values, with the
      step, as `watched`.

  Returns:
    A function of a cell and a progress callback that returns the cell's `Outcome`.

  Raises:
    MissingExtra: if weights are to be saved and the library for it is not installed.

  """
  if save_weights:  # a missing library must be reported before training, not after it
    safetensors.require_safetensors()
    (pathlib.Path(folder) / 'weights').mkdir(parents=True, exist_ok=True)
  return functools.partial(
    _execute_training_grid_cell, parallel, timeout, pathlib.Path(folder), save_weights,
    metrics_callback)


def _execute_training_grid_cell(
  parallel: str, timeout: float, folder: pathlib.Path, save_weights: bool, metrics_callback,
  cell: Cell, report_progress
) -> Outcome:
  experiment = cell.experiment
  run, task, model = experiment.run, experiment.task, experiment.model
  matched = experiment.model_width_and_parameter_counts
  longer_tasks = experiment.extrapolation_tasks
  shapes = models.batch_shapes(task)
  sizes.check_training_fits_in_memory(run, task, shapes, matched['parameters'], matched['width'])
  members = list(itertools.product(run.seeds, run.learning_rates))
  collected = {}
  ensemble_class, train_function = Ensemble, train
  if task.streams:
    identity = run.to_json_values() | {'digest': task.digest}
    checkpoint_folder = folder / 'checkpoints' / cell.record_key
    if cell.rerun:
      shutil.rmtree(checkpoint_folder, ignore_errors=True)
    checkpoints = Checkpoints(checkpoint_folder, identity)
    ensemble_class = StreamingEnsemble
    train_function = functools.partial(streaming.train_from_stream, checkpoints=checkpoints)
  elif metrics_callback:
    def store_metrics_of_training_states(step, states):
      values = metrics_callback(ensemble.training, ensemble.gather_from_devices(states))
      collected.setdefault('watched', []).append({'step': step, **values})

    train_function = functools.partial(train, on_validation=store_metrics_of_training_states)
  # Translations of sources longer than in training are scored in the module `artifacts`.
  scored_tasks = () if task.model_kind == 'translator' else longer_tasks
  ensemble, *longer_ensembles = (
    ensemble_class(Training(model, scored_task, run), members, parallel)
    for scored_task in (task, *scored_tasks)
  )

  def collect_artifacts_after_training(member_results, states):
    best = best_learning_rate(task, member_results)
    member_mask = np.array(
      [m.learning_rate == best and m.status != 'diverged' for m in member_results])
    if member_mask.any():
      tasks = (task, *longer_tasks)
      collected.update(
        artifacts.collect_artifacts(ensemble, tasks, member_results, states, member_mask))
    if save_weights:
      path = folder / 'weights' / cell.record_key
      artifacts.save_member_weights(
        path, ensemble, task, cell.run, member_results, states, member_mask)

  member_results = train_function(
    ensemble, task, run, timeout, report_progress, longer_ensembles,
    collect_artifacts_after_training)
  result = {
    **_task_record_fields(task),
    'controls': {} if task.streams else score_oracle_and_baseline(
      task, run.batch_size, run.test_batches),
    'receptive_field': model.receptive_field,
    'state_bytes': state_bytes(model, task, matched['width']),
    'extrapolation': [
      {'distance': longer.dependency_distance, 'chance': longer.chance_level}
      for longer in longer_tasks],
    **collected,
    **matched,
    'learning_rate': best_learning_rate(task, member_results),
    'members': [dataclasses.asdict(member) for member in member_results],
  }
  return Outcome(result, *_training_status_and_failure_reason(member_results))


def _task_record_fields(task: Task) -> dict:
  """Returns the fields of a training record that depend only on the task."""
  return {
    'family': task.family,
    'title': task.title,
    'axis': task.axis,
    'distance': task.dependency_distance,
    'metric': task.metric.name,
    'perfect': task.metric.perfect,
    'chance': task.chance_level,
    'settings': dataclasses.asdict(task),
    'digest': task.digest,
  }


def state_bytes(model: nn.Module, task: Task, width: int) -> int:
  """Computes the bytes of a model's recurrent state or cache after one sequence of a task.

  Args:
    model: the model.
    task: the task, which determines the length of the sequence.
    width: model width D.

  Returns:
    The number of bytes.

  """
  length = models.batch_shapes(task).source.shape[1]
  state = jax.eval_shape(lambda: model.initial_state(1, length, width))
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


@functools.cache
def score_oracle_and_baseline(task: Task, batch_size: int, num_batches: int) -> dict[str, float]:
  """Scores a task's oracle and baseline predictors on a scale of 0 (chance) to 1 (perfect).

  Args:
    task: the task, which defines the oracle and the baseline.
    batch_size: sequences of a batch.
    num_batches: number of test batches.

  Returns:
    The score of the oracle, which should be 1, and of the baseline, a predictor that ignores
    the input and should score 0.

  """
  @jax.jit
  def sum_oracle_and_baseline_metrics(batch_indices):
    def metric_sums_of_batch(batch_index):
      batch = task.batch('test', batch_index, batch_size)
      predictors = {'oracle': task.oracle_outputs, 'baseline': task.baseline_outputs}
      return {name: task.metric_sums(predict(batch.source), batch)
              for name, predict in predictors.items()}

    return jax.tree.map(jnp.sum, jax.lax.map(metric_sums_of_batch, batch_indices))

  totals = sum_oracle_and_baseline_metrics(jnp.arange(num_batches))
  return {
    name: float(task.normalize_metric(total / count)) for name, (total, count) in totals.items()}


def best_learning_rate(task: Task, members: Sequence[Member]) -> float:
  """Returns the learning rate with the best validation metric, averaged over the seeds.

  A rate at which a member diverged ranks last. Rates with equal metrics are ranked by the loss, and
  of rates with equal losses the lowest is selected.
  """
  sign = 1 if task.metric.perfect > task.chance_level else -1

  def validation_sort_key_of_learning_rate(learning_rate: float) -> tuple[float, float]:
    at_rate = [member for member in members if member.learning_rate == learning_rate]
    # An ensemble member with NaN logits may have a finite metric, because the argmax of NaN is 0.
    if any(m.status == 'diverged' or not math.isfinite(m.validation) for m in at_rate):
      return -math.inf, 0.0
    # If several learning rates reach the same metric, such as 0, the validation loss decides.
    return sum(sign * m.validation for m in at_rate), -sum(m.validation_loss for m in at_rate)

  return max(sorted({m.learning_rate for m in members}), key=validation_sort_key_of_learning_rate)


def _training_status_and_failure_reason(ensemble_members: Sequence[Member]) -> tuple[str, str]:
  """Returns the status of a grid cell, and the reason if its training did not finish."""
  statuses = [member.status for member in ensemble_members]
  if 'timeout' in statuses:
    return 'timeout', f'{statuses.count("timeout")} of {len(statuses)} members were still training'
  if all(status == 'diverged' for status in statuses):
    return 'diverged', 'the loss of every member is no longer a finite number'
  return 'finished', ''
