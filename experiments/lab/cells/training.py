"""One cell: a run's seeds and learning rates trained together, the rate chosen, the score taken.

The learning rate is chosen by the mean over seeds of the validation metric; the score is the test
metric at that rate. Test numbers of the other rates are stored too, but choose nothing.
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
from experiments.lab.training.streaming import Streamed
from experiments.lab.weights import safetensors


def cell_of(study: str, experiment: Experiment) -> Cell:
  """The cell that trains a run."""
  run = experiment.run
  label, expected = f'{run.layer} on {run.task}', {'budget': experiment.budget}
  return Cell(study, run.identity(), label, experiment, expected=expected)


def train_cell(
  parallel: str, timeout: float, folder: str, save_weights: bool = False,
  watch: Callable[[Training, Any], dict] | None = None,
):
  """What trains a cell, for `grid.launch`.

  Args:
    parallel: how members are spread over devices.
    timeout: seconds after which members stop as they are.
    folder: where checkpoints and weights are kept.
    save_weights: whether weights are.
    watch: is shown the members' states [members, ...] before the first step and at every look; what
      it returns stands in the record as `watched`, with the step.

  """
  if save_weights:  # what would be missing is missed before there is anything to lose
    safetensors.ready()
    (pathlib.Path(folder) / 'weights').mkdir(parents=True, exist_ok=True)
  return functools.partial(_train, parallel, timeout, pathlib.Path(folder), save_weights, watch)


def _train(
  parallel: str, timeout: float, folder: pathlib.Path, save_weights: bool, watch, cell: Cell, report
) -> Outcome:
  experiment = cell.experiment
  run, task, model, match = experiment.run, experiment.task, experiment.model, experiment.match
  sizes.require(run, task, models.shapes_of(task), match['parameters'], match['width'])
  members = list(itertools.product(run.seeds, run.learning_rates))
  beyond = experiment.extrapolation_tasks
  translates, seen = task.answered_by == 'translator', {}
  made, trains = Ensemble, train
  if task.streams:
    identity = run.identity() | {'digest': task.digest}
    place = folder / 'checkpoints' / cell.key
    if cell.anew:
      shutil.rmtree(place, ignore_errors=True)
    checkpoints = Checkpoints(place, identity)
    made, trains = Streamed, functools.partial(streaming.train, checkpoints=checkpoints)
  elif watch:
    trains = functools.partial(train, watch=lambda step, states: seen.setdefault(
      'watched', []).append({'step': step, **watch(ensemble.training, ensemble.gather(states))}))
  ensemble, *others = (
    made(Training(model, one, run), members, parallel)
    for one in (task, *(() if translates else beyond))
  )

  def after(trained, states):
    best = choose(task, trained)
    active = np.array([m.learning_rate == best and m.status != 'diverged' for m in trained])
    if active.any():
      seen.update(artifacts.collect(ensemble, (task, *beyond), trained, states, active))
    if save_weights:
      path = folder / 'weights' / cell.key
      artifacts.save(path, ensemble, task, cell.run, trained, states, active)

  trained = trains(ensemble, task, run, timeout, report, others, after)
  result = {
    'family': task.family,
    'title': task.title,
    'axis': task.axis,
    'distance': task.distance,
    'metric': task.metric.name,
    'perfect': task.metric.perfect,
    'chance': task.chance,
    'settings': dataclasses.asdict(task),
    'digest': task.digest,
    'controls': {} if task.streams else calibrate(task, run.batch_size, run.test_batches),
    'receptive_field': model.receptive_field,
    'state_bytes': state_bytes(model, task, match['width']),
    'extrapolation': [{'distance': one.distance, 'chance': one.chance} for one in beyond],
    **seen,
    **match,
    'learning_rate': choose(task, trained),
    'members': [dataclasses.asdict(member) for member in trained],
  }
  return Outcome(result, *_status(trained))


def state_bytes(model: nn.Module, task: Task, width: int) -> int:
  """What the model remembers of one sequence of the task, at its end."""
  length = models.shapes_of(task).source.shape[1]
  state = jax.eval_shape(lambda: model.initial_state(1, length, width))
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


@functools.cache
def calibrate(task: Task, batch_size: int, batches: int) -> dict[str, float]:
  """What the oracle and the guess score on the test split: 1 and 0 on the common scale."""
  @jax.jit
  def sums(indices):
    def measured(index):
      batch = task.batch('test', index, batch_size)
      answers = {'oracle': task.oracle, 'guess': task.baseline}
      return {name: task.measure(to(batch.source), batch) for name, to in answers.items()}

    return jax.tree.map(jnp.sum, jax.lax.map(measured, indices))

  measured = sums(jnp.arange(batches))
  return {name: float(task.score(total / count)) for name, (total, count) in measured.items()}


def choose(task: Task, members: Sequence[Member]) -> float:
  """The rate with the best mean validation metric over seeds; a divergence is the worst."""
  better = 1 if task.metric.perfect > task.chance else -1

  def merit(rate: float) -> tuple[float, float]:
    at = [member for member in members if member.learning_rate == rate]
    # The metric of a diverged member may be finite: the argmax of NaN is the first class.
    if any(m.status == 'diverged' or not math.isfinite(m.validation) for m in at):
      return -math.inf, 0.0
    # Equal metrics, such as that of no sequence right, are told apart by the loss.
    return sum(better * m.validation for m in at), -sum(m.validation_loss for m in at)

  return max(sorted({m.learning_rate for m in members}), key=merit)


def _status(members: Sequence[Member]) -> tuple[str, str]:
  """A cell's status, and the reason where it did not finish."""
  statuses = [member.status for member in members]
  if 'timeout' in statuses:
    return 'timeout', f'{statuses.count("timeout")} of {len(statuses)} members were still training'
  if all(status == 'diverged' for status in statuses):
    return 'diverged', 'the loss of every member is no longer a finite number'
  return 'finished', ''
