"""The training loop on the host, which alternates between compiled training and validation.

Every member ends with one of four statuses.
  finished   all training steps are done
  solved     the validation metric has reached the task's threshold, and training stopped there
  diverged   the loss in training, validation or testing is not finite, and training stopped there
  timeout    the time limit of the grid cell has passed
Each status is a valid result and not an error.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from experiments.lab.tasks.task import Task
from experiments.lab.training.ensemble import Ensemble


@dataclasses.dataclass
class Member:
  """The results of training one ensemble member, with one seed and one learning rate."""

  seed: int
  learning_rate: float
  status: str = 'running'
  steps: int = 0
  validation: float = math.nan
  validation_loss: float = math.nan
  test: float = math.nan
  test_loss: float = math.nan
  extrapolation: list[float] = dataclasses.field(default_factory=list)  # metrics at other distances
  extrapolation_loss: list[float] = dataclasses.field(default_factory=list)
  curve: list = dataclasses.field(default_factory=list)  # [step, training loss, validation metric]

  def mark_diverged(self) -> None:
    """Sets the status to 'diverged', and sets the test metric and the test loss to NaN."""
    self.status, self.test, self.test_loss = 'diverged', math.nan, math.nan


def is_solved(task: Task, metric: float) -> bool:
  """Whether a metric reaches the threshold at which the task counts as solved."""
  if task.solved is None:
    return False
  return metric >= task.solved if task.metric.perfect > task.chance_level else metric <= task.solved


def train(
  ensemble: Ensemble,
  task: Task,
  recipe,
  timeout: float = math.inf,
  progress: Callable = print,
  extrapolation_ensembles: Sequence[Ensemble] = (),
  on_finish: Callable = lambda members, states: None,
  on_validation: Callable = lambda step, states: None,
) -> list[Member]:
  """Trains an ensemble, with validation at regular intervals and a test at the end.

  Args:
    ensemble: the members.
    task: the task that they are trained on.
    recipe: the `Recipe` of training.
    timeout: the number of seconds after which training stops early.
    progress: called with the fraction of steps done and a short text about the validation metric.
    extrapolation_ensembles: ensembles of the same members, one for each further task on which they
      are tested.
    on_finish: called with the members and their states after the final tests.
    on_validation: called with the step and the states before the first step and after each
      validation.

  Returns:
    The results of each member, in the order of the ensemble.

  """
  members = [Member(seed, rate) for seed, rate in ensemble.members]
  deadline = time.monotonic() + timeout
  states = ensemble.initialise()
  on_validation(0, states)
  done = 0
  while done < recipe.steps:
    active = np.array([member.status == 'running' for member in members])
    if not active.any():
      break
    count = min(recipe.validation_interval, recipe.steps - done)
    states, losses, steps = ensemble.train_for_steps(states, active, count, deadline)
    evaluation = ensemble.gather_from_devices(ensemble.evaluate(states, 'validation', active))
    done += steps
    for i in np.flatnonzero(active):
      metric, loss = (float(values[i]) for values in evaluation)
      record_validation(members[i], task, recipe, done, float(losses[i]), metric, loss)
    on_validation(done, states)
    if time.monotonic() > deadline:
      mark_timed_out(members)
    progress(done / recipe.steps, summarize_validation(task, members))

  run_final_tests(ensemble, states, members, extrapolation_ensembles, on_finish)
  return members


def mark_timed_out(ensemble_members: list[Member]) -> None:
  """Sets the status of all running ensemble members to 'timeout'."""
  for member in ensemble_members:
    member.status = 'timeout' if member.status == 'running' else member.status


def run_final_tests(
  ensemble: Ensemble, states, member_results: list[Member], extrapolation_ensembles, on_finish
) -> None:
  """Tests an ensemble on its training and extrapolation tasks, then frees its device memory.

  Args:
    ensemble: the members with the task that they were trained on.
    states: their states, which are deleted.
    member_results: their results so far, to which the test scores are added.
    extrapolation_ensembles: ensembles of the same members, one for each further task on which they
      are tested.
    on_finish: called with the members and their states before the states are deleted.

  """
  active = np.array([result.status != 'diverged' for result in member_results])
  evaluation = ensemble.gather_from_devices(ensemble.evaluate(states, 'test', active))
  for i in np.flatnonzero(active):
    result = member_results[i]
    result.test, result.test_loss = float(evaluation.metric[i]), float(evaluation.loss[i])
    if not math.isfinite(result.test_loss):  # the metric of NaN may be a finite number
      result.mark_diverged()
      active[i] = False
  for extrapolation_ensemble in extrapolation_ensembles:
    evaluation = ensemble.gather_from_devices(
      extrapolation_ensemble.evaluate(states, 'test', active))
    for i in np.flatnonzero(active):
      metric, loss = float(evaluation.metric[i]), float(evaluation.loss[i])
      member_results[i].extrapolation.append(metric if math.isfinite(loss) else math.nan)
      member_results[i].extrapolation_loss.append(loss)
  on_finish(member_results, states)
  jax.tree.map(lambda x: x.delete(), states)


def record_validation(
  member: Member, task: Task, recipe, steps: int, training_loss: float, validation_metric: float,
  validation_loss: float
) -> None:
  """Records the validation results of an ensemble member and updates its status.

  Args:
    member: the results so far.
    task: the task that the member is trained on.
    recipe: the `Recipe` of training.
    steps: the number of training steps done.
    training_loss: the mean training loss since the last validation.
    validation_metric: the task's metric on the validation split.
    validation_loss: the mean loss on the validation split.

  """
  member.steps, member.validation = steps, validation_metric
  member.validation_loss = validation_loss
  member.curve.append([steps, training_loss, validation_metric])
  if not all(map(math.isfinite, (training_loss, validation_metric, validation_loss))):
    member.mark_diverged()
  elif recipe.stop_when_solved and is_solved(task, validation_metric):
    member.status = 'solved'
  elif steps >= recipe.steps:
    member.status = 'finished'


def summarize_validation(task: Task, members: list[Member]) -> str:
  """A short text with the best validation metric over all ensemble members."""
  finite = [m.validation for m in members if math.isfinite(m.validation)]
  best = max if task.metric.perfect > task.chance_level else min
  return f'{task.metric.name} {best(finite):.3f}' if finite else 'diverged'
