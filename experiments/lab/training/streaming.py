"""Training on batches that the host loads, such as those of a corpus, with exact resumption.

All members are trained on the same batches, independently of their seed, and batch 0 belongs to the
first step. A program is compiled for each batch shape. A thread prefetches batches, so that the
devices do not wait for them.

A run consists of the members' states, the number of steps done and the results so far. A checkpoint
holds all three, so that a run that was killed and restarted ends with exactly the same numbers as
an uninterrupted run.
"""

import collections
import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab import interruption
from experiments.lab.tasks.task import Batch, Task
from experiments.lab.training.checkpoints import Checkpoints
from experiments.lab.training.ensemble import (
  Ensemble,
  compile_over_devices,
  map_over_ensemble_members,
)
from experiments.lab.training.loop import (
  Member,
  mark_timed_out,
  record_validation,
  run_final_tests,
  summarize_validation,
)
from experiments.lab.training.step import Evaluation, Training

PREFETCHED = 4  # the number of batches that are loaded in advance


class BatchPrograms(NamedTuple):
  """The compiled functions of all streaming ensembles with the same training and devices."""

  step: Callable
  evaluate: Callable


@functools.lru_cache(maxsize=16)
def create_batch_programs(training: Training, devices: tuple, parallel: str) -> BatchPrograms:
  """Creates the programs that train and evaluate all members of an ensemble on a given batch.

  Args:
    training: the training of one member on one device.
    devices: the devices.
    parallel: 'jit' or 'pmap'.

  Returns:
    The programs, which compile on their first use. They are kept for ensembles with equal
    arguments.

  """
  platform = devices[0].platform
  compiled = functools.partial(compile_over_devices, devices, parallel)

  def train_active_members_on_batch(states, active_members, batch):
    def train_member_if_active(member_state, is_active):
      train = functools.partial(_train_ensemble_member_on_batch, training, batch)
      unchanged = lambda state: (state, jnp.zeros(()))  # noqa: E731
      return jax.lax.cond(is_active, train, unchanged, member_state)

    return map_over_ensemble_members(train_member_if_active, platform)(states, active_members)

  def evaluate_members_on_batch(states, is_test, batch):
    evaluate_member = functools.partial(_evaluate_ensemble_member_on_batch, training, batch)
    return map_over_ensemble_members(evaluate_member, platform)(states, is_test)

  return BatchPrograms(
    compiled(train_active_members_on_batch, donated_argument_indices=(0,)),
    compiled(evaluate_members_on_batch))


class StreamingEnsemble(Ensemble):
  """An ensemble that trains all its members on the same batches, loaded by the host."""

  def __init__(self, training: Training, members, parallel: str = 'jit', devices=None):
    super().__init__(training, members, parallel, devices)
    self._batch_programs = create_batch_programs(
      self.training_of_programs, tuple(self.devices), parallel)

  def train_ensemble_on_batch(self, states, batch: Batch, active_members):
    """Trains the active ensemble members on one batch.

    Args:
      states: the members' states, whose buffers are donated.
      batch: the batch, as NumPy arrays.
      active_members: a mask [members] of the members that train.

    Returns:
      The new states, and the losses [devices, members per device] before the step.

    """
    active = self._distribute_over_devices(active_members)
    return self._batch_programs.step(states, active, self._shard_batch(batch))

  def evaluate(self, states, split: str, active_members) -> Evaluation:
    """Evaluates all ensemble members on one split, and loads each batch only once."""
    recipe, task = self.training.recipe, self.training.task
    limit = {'validation': recipe.validation_batches, 'test': recipe.test_batches}[split]
    indices = range(min(limit, task.num_batches(split, recipe.batch_size)))
    test, totals = np.full(len(self.members), split == 'test'), None
    for batch in prefetch_batches(task, split, indices, recipe.batch_size):
      if split == 'test':  # during training, a checkpoint is written before the run stops
        interruption.raise_if_stopped()
      sums = jax.block_until_ready(
        self._batch_programs.evaluate(
          states, self._distribute_over_devices(test), self._shard_batch(batch)))
      totals = sums if totals is None else jax.tree.map(jnp.add, totals, sums)
    return Evaluation(*(value / jnp.maximum(weight, 1) for value, weight in totals))

  def _jitted_functions_and_arguments(self, states, active_members, batch):
    """Maps the program name 'step' to the jitted training step and its argument shapes."""
    return {'step': (self._batch_programs.step, states, active_members, batch)}

  def scatter_to_devices(self, tree):
    """Converts NumPy arrays [members, ...] to arrays [devices, members per device, ...]."""
    return jax.tree.map(lambda x: jnp.asarray(self._distribute_over_devices(x)), tree)

  def _shard_batch(self, batch: Batch) -> Batch:
    """Converts a batch to arrays [devices, ...] by replicating it or by dividing its rows.

    A divided batch is padded with rows of weight 0.
    """
    count, shards = len(self.devices), self.training.num_devices
    if shards == 1:
      return jax.tree.map(lambda x: np.broadcast_to(x, (count, *x.shape)), batch)
    padding = -len(batch.source) % shards
    batch = Batch(*(np.concatenate([x, x[:1].repeat(padding, 0)]) for x in batch))
    batch.weight[len(batch.weight) - padding:] = 0
    return jax.tree.map(lambda x: x.reshape(shards, -1, *x.shape[1:]), batch)


def _train_ensemble_member_on_batch(trainer: Training, batch: Batch, state):
  """Trains one ensemble member on a batch, and returns its new state and the training loss."""
  state, loss = trainer.train_step(state, batch)
  return trainer.add_to_parameter_average(state), loss


def _evaluate_ensemble_member_on_batch(trainer: Training, batch: Batch, state, is_test):
  """The metric and the loss of a batch, each as a pair (weighted sum, total weight)."""
  parameters = jax.lax.cond(
    is_test, trainer.parameters_for_test, lambda state: state.parameters, state)
  sums = trainer.metric_and_loss_sums(parameters, batch)
  return sums if trainer.axis is None else jax.lax.psum(sums, trainer.axis)


def prefetch_batches(
  task: Task, split: str, indices: Iterable[int], batch_size: int
) -> Iterator[Batch]:
  """Loads batches in a background thread while the caller processes earlier batches.

  Args:
    task: the task that loads batches.
    split: 'train', 'validation' or 'test'.
    indices: the indices of the batches, in the order in which they are returned.
    batch_size: the number of sequences in a batch.

  Returns:
    An iterator over the batches, which stops loading when it is closed.

  """
  waiting = collections.deque()
  with ThreadPoolExecutor(1, 'reader') as reader:
    try:
      for index in indices:
        waiting.append(reader.submit(task.batch, split, index, batch_size))
        if len(waiting) > PREFETCHED:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    finally:
      reader.shutdown(cancel_futures=True)  # batches that are no longer needed


def train_from_stream(
  ensemble: StreamingEnsemble,
  task: Task,
  recipe,
  timeout: float = math.inf,
  progress: Callable = print,
  extrapolation_ensembles: Sequence[StreamingEnsemble] = (),
  on_finish: Callable = lambda members, states: None,
  checkpoints: Checkpoints | None = None,
) -> list[Member]:
  """Trains, validates and tests an ensemble on batches that the host loads.

  Training resumes from the newest checkpoint, and each validation writes a checkpoint. After a
  signal to stop, or when the time limit has passed, a last checkpoint is written after the current
  step and training ends.

  Args:
    ensemble: the members.
    task: the task that they are trained on.
    recipe: the `Recipe` of training.
    timeout: the number of seconds after which training stops early.
    progress: called with the fraction of steps done and a short text about the validation metric.
    extrapolation_ensembles: ensembles of the same members, one for each further task on which they
      are tested.
    on_finish: called with the members and their states after the final tests.
    checkpoints: the checkpoints of the run, or None to train without checkpoints.

  Returns:
    The results of each member, in the order of the ensemble.

  Raises:
    Interrupted: after a signal to stop.

  """
  deadline = time.monotonic() + timeout
  states, members, done, losses = _restore_or_initialise(ensemble, checkpoints)
  active = _mask_of_active_members(members)
  indices = range(done, recipe.steps if active.any() else 0)
  batches = prefetch_batches(task, 'train', indices, recipe.batch_size)
  with interruption.deferred_signals(), contextlib.closing(batches):
    for batch in batches:
      states, loss = ensemble.train_ensemble_on_batch(states, batch, active)
      losses = losses + ensemble.gather_from_devices(loss)  # this waits for the end of the step
      done += 1
      validates = done % recipe.validation_interval == 0 or done == recipe.steps
      if validates:
        _record_validation_of_active_members(ensemble, states, members, task, recipe, done, losses)
        losses = np.zeros_like(losses)
      late = time.monotonic() > deadline
      if checkpoints and (validates or late or interruption.stop_requested()):
        checkpoints.save(
          done, ensemble.gather_from_devices(states), _results_as_json(members, losses))
      interruption.raise_if_stopped(f'stopped after step {done}')
      if late:
        # The extra validation at the time limit is not saved.
        # A run without a time limit would not perform this validation.
        if not validates:
          _record_validation_of_active_members(
            ensemble, states, members, task, recipe, done, losses)
        mark_timed_out(members)
      if validates or late:
        progress(done / recipe.steps, summarize_validation(task, members))
        active = _mask_of_active_members(members)
        if not active.any():
          break
  run_final_tests(ensemble, states, members, extrapolation_ensembles, on_finish)
  return members


def _results_as_json(ensemble_members: list[Member], loss_sums: np.ndarray) -> dict:
  """Returns the results of all ensemble members as JSON values to be stored in a checkpoint."""
  members = [dataclasses.asdict(member) for member in ensemble_members]
  return {'members': members, 'losses': loss_sums.tolist()}


def _restore_or_initialise(ensemble: StreamingEnsemble, checkpoints: Checkpoints | None):
  """Restores the newest checkpoint of an ensemble, or initialises the ensemble.

  Returns the states, the results of the members, the number of steps done, and the sums of the
  training losses [members] since the last validation.
  """
  states = ensemble.initialise()
  members = [Member(seed, rate) for seed, rate in ensemble.members]
  saved = checkpoints.restore(ensemble.gather_from_devices(states)) if checkpoints else None
  if saved is None:
    return states, members, 0, np.zeros(len(members))
  members = [Member(**values) for values in saved.notes['members']]
  states, losses = ensemble.scatter_to_devices(saved.state), np.array(saved.notes['losses'])
  return states, members, saved.step, losses


def _mask_of_active_members(members: list[Member]) -> np.ndarray:
  return np.array([member.status == 'running' for member in members])


def _record_validation_of_active_members(
  ensemble, states, members: list[Member], task, recipe, steps_done: int, losses
) -> None:
  """Records the results on the validation split of the ensemble members that still train."""
  active = _mask_of_active_members(members)
  evaluation = ensemble.gather_from_devices(ensemble.evaluate(states, 'validation', active))
  for i in np.flatnonzero(active):
    train_loss = float(losses[i]) / (steps_done - members[i].steps)
    metric, loss = (float(values[i]) for values in evaluation)
    record_validation(members[i], task, recipe, steps_done, train_loss, metric, loss)
