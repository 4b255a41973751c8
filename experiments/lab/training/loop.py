"""The host's part of training: it calls, looks, and stops those that are done.

A member ends as
  finished   it made all its steps
  solved     its validation metric reached what the task calls solved: it stopped there
  diverged   its loss, in training or afterwards, is no finite number: it stopped there
  timeout    the cell's time was over
Any of these is a result; none is an error.
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
  """What became of one seed at one learning rate."""

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

  def diverge(self) -> None:
    """Notes that the model is broken, so that it has no test score."""
    self.status, self.test, self.test_loss = 'diverged', math.nan, math.nan


def reaches(task: Task, metric: float) -> bool:
  """Whether a metric is as good as what the task calls solved."""
  if task.solved is None:
    return False
  return metric >= task.solved if task.metric.perfect > task.chance else metric <= task.solved


def train(
  ensemble: Ensemble,
  task: Task,
  recipe,
  timeout: float = math.inf,
  progress: Callable = print,
  extrapolation: Sequence[Ensemble] = (),
  after: Callable = lambda members, states: None,
  watch: Callable = lambda step, states: None,
) -> list[Member]:
  """Trains all members and tests them.

  Args:
    ensemble: the members.
    task: what they learn.
    recipe: how.
    timeout: seconds after which members stop as they are.
    progress: gets the part that is done and a line about it.
    extrapolation: the same members with the tasks that they are tested on besides their own.
    after: is shown the members and their states when all are tested.
    watch: is shown the states before the first step, and at each look at the validation split.

  """
  members = [Member(seed, rate) for seed, rate in ensemble.members]
  end = time.monotonic() + timeout
  states = ensemble.initialise()
  watch(0, states)
  done = 0
  while done < recipe.steps:
    active = np.array([member.status == 'running' for member in members])
    if not active.any():
      break
    count = min(recipe.steps_per_call, recipe.steps - done)
    states, losses, made = ensemble.advance(states, active, count, end)
    report = ensemble.gather(ensemble.examine(states, 'validation', active))
    done += made
    for i in np.flatnonzero(active):
      look(members[i], task, recipe, done, float(losses[i]), *(float(x[i]) for x in report))
    watch(done, states)
    if time.monotonic() > end:
      expire(members)
    progress(done / recipe.steps, summary(task, members))

  conclude(ensemble, states, members, extrapolation, after)
  return members


def expire(members: list[Member]) -> None:
  """Stops the members that are still running, their time being over."""
  for member in members:
    member.status = 'timeout' if member.status == 'running' else member.status


def conclude(ensemble: Ensemble, states, members: list[Member], extrapolation, after) -> None:
  """Tests the members, on their own task and on others, and lets go of their states."""
  examined = np.array([member.status != 'diverged' for member in members])
  report = ensemble.gather(ensemble.examine(states, 'test', examined))
  for i in np.flatnonzero(examined):
    members[i].test, members[i].test_loss = float(report.metric[i]), float(report.loss[i])
    if not math.isfinite(members[i].test_loss):  # the metric of NaN may be a finite number
      members[i].diverge()
      examined[i] = False
  for other in extrapolation:
    report = ensemble.gather(other.examine(states, 'test', examined))
    for i in np.flatnonzero(examined):
      metric, loss = float(report.metric[i]), float(report.loss[i])
      members[i].extrapolation.append(metric if math.isfinite(loss) else math.nan)
      members[i].extrapolation_loss.append(loss)
  after(members, states)
  jax.tree.map(lambda x: x.delete(), states)


def look(
  member: Member, task: Task, recipe, steps: int, loss: float, metric: float, validation_loss: float
) -> None:
  """Notes what a call brought, and whether the member goes on."""
  member.steps, member.validation, member.validation_loss = steps, metric, validation_loss
  member.curve.append([steps, loss, metric])
  if not all(map(math.isfinite, (loss, metric, validation_loss))):
    member.diverge()
  elif recipe.stop_when_solved and reaches(task, metric):
    member.status = 'solved'
  elif steps >= recipe.steps:
    member.status = 'finished'


def summary(task: Task, members: list[Member]) -> str:
  """The best validation metric so far, in a few characters."""
  known = [m.validation for m in members if math.isfinite(m.validation)]
  best = max if task.metric.perfect > task.chance else min
  return f'{task.metric.name} {best(known):.3f}' if known else 'diverged'
