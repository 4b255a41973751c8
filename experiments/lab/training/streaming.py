"""Training on batches that come from the host, such as a corpus's, and going on where it was left.

All members read the same batches: number 0 is the first step's, whatever the seed. There is one
program for each shape of batch. A thread reads ahead, so that the devices need not wait.

A run is its states, the number of its steps and what was noted of its members; with these in a
checkpoint, what is killed and started again ends bit by bit as if nothing had happened.
"""

import collections
import contextlib
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np

from experiments.lab import interruption
from experiments.lab.tasks.task import Batch, Task
from experiments.lab.training.checkpoints import Checkpoints
from experiments.lab.training.ensemble import Ensemble, compile_over, over_members
from experiments.lab.training.loop import Member, conclude, expire, look, summary
from experiments.lab.training.step import Examination, Training

AHEAD = 4  # batches that wait for their turn


class Streamed(Ensemble):
  """Members that train together on the batches of a task that streams, all on the same."""

  def __init__(self, training: Training, members, parallel: str = 'jit', devices=None):
    super().__init__(training, members, parallel, devices)
    platform = self.devices[0].platform
    compiled = functools.partial(compile_over, self.devices, parallel)

    def step(states, active, batch):
      def one(state, active):
        idle = lambda state: (state, jnp.zeros(()))  # noqa: E731
        return jax.lax.cond(active, functools.partial(advanced, self.training, batch), idle, state)

      return over_members(one, platform)(states, active)

    self._step = compiled(step, donate=(0,))

    def judge(states, test, batch):
      return over_members(functools.partial(judged, self.training, batch), platform)(states, test)

    self._judge = compiled(judge)

  def step(self, states, batch: Batch, active):
    """The states after a step of the active members on a batch, and their losses before it."""
    return self._step(states, self._spread(active), self._share(batch))

  def examine(self, states, split: str, active) -> Examination:
    """What the members score on the 'validation' or the 'test' split, read once at most."""
    recipe, task = self.training.recipe, self.training.task
    most = {'validation': recipe.validation_batches, 'test': recipe.test_batches}[split]
    test, sums = np.full(len(self.members), split == 'test'), None
    for batch in ahead(task, split, range(min(most, task.batches(split, recipe.batch_size))),
                       recipe.batch_size):
      if split == 'test':  # in training, a checkpoint comes first
        interruption.check()
      found = jax.block_until_ready(self._judge(states, self._spread(test), self._share(batch)))
      sums = found if sums is None else jax.tree.map(jnp.add, sums, found)
    return Examination(*(value / jnp.maximum(weight, 1) for value, weight in sums))

  def _calls(self, states, flags, batch):
    """`step`, on a batch [devices, ...] as `_share` makes it."""
    return {'step': (self._step, states, flags, batch)}

  def scatter(self, tree):
    """NumPy arrays [members, ...] as `gather` gives them -> [devices, members on each, ...]."""
    return jax.tree.map(lambda x: jnp.asarray(self._spread(x)), tree)

  def _share(self, batch: Batch) -> Batch:
    """A batch as each device gets it: all of it, or its part; rows left over have no weight."""
    count, parts = len(self.devices), self.training.parts
    if parts == 1:
      return jax.tree.map(lambda x: np.broadcast_to(x, (count, *x.shape)), batch)
    left = -len(batch.source) % parts
    batch = Batch(*(np.concatenate([x, x[:1].repeat(left, 0)]) for x in batch))
    batch.weight[len(batch.weight) - left:] = 0
    return jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch)


def advanced(training: Training, batch: Batch, state):
  """A member after a step on a batch, and its loss before."""
  state, loss = training.train_step(state, batch)
  return training.averaged(state), loss


def judged(training: Training, batch: Batch, state, test):
  """The sums that a member's metric and loss over several batches are quotients of."""
  parameters = jax.lax.cond(test, training.tested, lambda state: state.parameters, state)
  sums = training.judge(parameters, batch)
  return sums if training.axis is None else jax.lax.psum(sums, training.axis)


def ahead(task: Task, split: str, indices: Iterable[int], batch_size: int) -> Iterator[Batch]:
  """The batches of some numbers, in order, each read while those before it are worked on."""
  waiting = collections.deque()
  with ThreadPoolExecutor(1, 'reader') as reader:
    try:
      for index in indices:
        waiting.append(reader.submit(task.batch, split, index, batch_size))
        if len(waiting) > AHEAD:
          yield waiting.popleft().result()
      while waiting:
        yield waiting.popleft().result()
    finally:
      reader.shutdown(cancel_futures=True)  # what nobody waits for any more


def train(
  ensemble: Streamed,
  task: Task,
  recipe,
  timeout: float = math.inf,
  progress: Callable = print,
  extrapolation: Sequence[Streamed] = (),
  after: Callable = lambda members, states: None,
  checkpoints: Checkpoints | None = None,
) -> list[Member]:
  """Trains all members and tests them, as `loop.train` does and with its arguments.

  With checkpoints, training goes on from the newest, and one is made at each look at the validation
  split. A signal to stop, or the end of the time, ends it after a step with one more checkpoint.
  """
  end, (states, members, done, losses) = time.monotonic() + timeout, _begin(ensemble, checkpoints)
  active = _running(members)
  batches = ahead(task, 'train', range(done, recipe.steps if active.any() else 0),
                  recipe.batch_size)
  with interruption.noticed(), contextlib.closing(batches):
    for batch in batches:
      states, loss = ensemble.step(states, batch, active)
      losses, done = losses + ensemble.gather(loss), done + 1  # which waits for the step
      whole = done % recipe.steps_per_call == 0 or done == recipe.steps
      if whole:
        _look(ensemble, states, members, task, recipe, done, losses)
        losses = np.zeros_like(losses)
      late = time.monotonic() > end
      if checkpoints and (whole or late or interruption.requested()):
        checkpoints.save(done, ensemble.gather(states), _notes(members, losses))
      interruption.check(f'stopped after step {done}')
      if late:
        if not whole:  # with more time, training goes on as if this look had not been
          _look(ensemble, states, members, task, recipe, done, losses)
        expire(members)
      if whole or late:
        progress(done / recipe.steps, summary(task, members))
        active = _running(members)
        if not active.any():
          break
  conclude(ensemble, states, members, extrapolation, after)
  return members


def _notes(members: list[Member], losses: np.ndarray) -> dict:
  """What a checkpoint holds beside the states: what `_begin` reads."""
  return {'members': [dataclasses.asdict(m) for m in members], 'losses': losses.tolist()}


def _begin(ensemble: Streamed, checkpoints: Checkpoints | None):
  """States, members, how many steps are done, and the sums of losses since the last look."""
  states = ensemble.initialise()
  members = [Member(seed, rate) for seed, rate in ensemble.members]
  saved = checkpoints.restore(ensemble.gather(states)) if checkpoints else None
  if saved is None:
    return states, members, 0, np.zeros(len(members))
  members = [Member(**values) for values in saved.notes['members']]
  return ensemble.scatter(saved.state), members, saved.step, np.array(saved.notes['losses'])


def _running(members: list[Member]) -> np.ndarray:
  return np.array([member.status == 'running' for member in members])


def _look(ensemble, states, members: list[Member], task, recipe, done: int, losses) -> None:
  """Notes what those that are running came to since the last look."""
  active = _running(members)
  report = ensemble.gather(ensemble.examine(states, 'validation', active))
  for i in np.flatnonzero(active):
    loss = float(losses[i]) / (done - members[i].steps)
    look(members[i], task, recipe, done, loss, *(float(x[i]) for x in report))
