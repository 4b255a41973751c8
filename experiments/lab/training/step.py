"""The whole of training as pure functions of one member's state: initialise, advance, examine.

A member is one seed at one learning rate. Seed s reads the training batches
s * steps ... (s + 1) * steps - 1: whatever is compared at equal seeds saw the same data in the
same order, and two seeds share none. Validation and test batches are the same for all.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from experiments.lab.corpora.reserved import END, PAD, START
from experiments.lab.tasks.task import Batch, Task
from experiments.lab.training.optimizer import optimizer, schedule
from experiments.lab.training.recipe import Recipe
from transformer.decoding import beam_search, greedy


class TrainState(NamedTuple):
  """One member."""

  step: jax.Array  # [] steps done
  seed: jax.Array  # []
  learning_rate: jax.Array  # [] at the schedule's peak
  parameters: Any
  moments: Any  # the optimiser's state
  average: Any = ()  # the sum of the parameters at the last looks at validation, if it is asked for


class Examination(NamedTuple):
  """What a member scores on a split."""

  metric: jax.Array  # [] the task's metric
  loss: jax.Array  # [] mean loss over what counts


class Answer(NamedTuple):
  """What a member makes of a batch: two sums, each with what it is divided by, and tokens."""

  metric: tuple[jax.Array, jax.Array]
  loss: tuple[jax.Array, jax.Array]
  tokens: jax.Array  # [B, T]
  broken: jax.Array  # [B] whether the model's logits ended an answer, being no numbers


@dataclasses.dataclass(frozen=True)
class Training:
  """A model, a task and a recipe, as three pure functions.

  Where several devices share each batch, losses and gradients are summed over them together with
  the number of tokens that they are sums over, and divided once: unequal parts weigh what they
  should.
  """

  model: nn.Module
  task: Task
  recipe: Recipe
  parts: int = 1  # how many devices share each batch
  axis: str | None = None  # the name of the mapped axis that they stand along

  def shared(self, parts: int, axis: str) -> 'Training':
    """The same training with its batches shared by the devices along a mapped axis."""
    return dataclasses.replace(self, parts=parts, axis=axis)

  def initialise(self, seed: jax.Array, learning_rate: jax.Array) -> TrainState:
    """A new member."""
    arguments, named = self.task.arguments(self.task.batch('train', 0, 1))
    parameters = self.model.init(jax.random.key(seed), *arguments, **named)
    moments = optimizer(self.recipe).init(parameters)
    average = jax.tree.map(jnp.zeros_like, parameters) if self.recipe.average else ()
    return TrainState(jnp.zeros((), jnp.int32), seed, learning_rate, parameters, moments, average)

  def advance(
    self, state: TrainState, losses: jax.Array, count: jax.Array
  ) -> tuple[TrainState, jax.Array]:
    """`count` more steps; also `losses` with the training loss of each of them added."""
    def body(_, carry):
      state, losses = carry
      index = state.seed * self.recipe.steps + state.step
      batch = self._own(self.task.batch('train', index, self.recipe.batch_size))
      state, loss = self.train_step(state, batch)
      return state, losses + loss

    state, losses = jax.lax.fori_loop(0, count, body, (state, losses))
    return self.averaged(state), losses

  def averaged(self, state: TrainState) -> TrainState:
    """The state, added to the average if one of the last looks is at its step."""
    if not self.recipe.average:
      return state
    looked = (state.step % self.recipe.steps_per_call == 0) | (state.step == self.recipe.steps)
    add = lambda s: s._replace(average=jax.tree.map(jnp.add, s.average, s.parameters))  # noqa: E731
    return jax.lax.cond(looked & (self._late(state.step) > 0), add, lambda s: s, state)

  def tested(self, state: TrainState):
    """The parameters that are tested: the average, or those of a member that stopped before it."""
    if not self.recipe.average:
      return state.parameters
    count = self._late(state.step)
    mean = lambda total, p: jnp.where(count > 0, total / jnp.maximum(count, 1), p)  # noqa: E731
    return jax.tree.map(mean, state.average, state.parameters)

  def _late(self, step):
    """How many of the last `average` looks have come by a step."""
    looks = -(-self.recipe.steps // self.recipe.steps_per_call)
    done = jnp.where(step == self.recipe.steps, looks, step // self.recipe.steps_per_call)
    return jnp.maximum(done - (looks - min(looks, self.recipe.average)), 0)

  def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
    """One step on (this device's part of) a batch; also the loss before it."""
    key = jax.random.fold_in(jax.random.key(state.seed), state.step)
    arguments, named = self.task.arguments(batch)

    def loss(parameters):
      dropout = {'dropout': jax.random.fold_in(key, self._part())}
      outputs, _ = self.model.apply(parameters, *arguments, train=True, rngs=dropout, **named)
      return jnp.sum(batch.weight * self.task.loss(outputs, batch, self.recipe.label_smoothing))

    sums = jax.value_and_grad(loss)(state.parameters)
    sums, weight = self._total((sums, jnp.sum(batch.weight)))
    loss, gradient = jax.tree.map(lambda x: x / jnp.maximum(weight, 1), sums)

    updates, moments = optimizer(self.recipe).update(gradient, state.moments, state.parameters)
    rate = -state.learning_rate * schedule(self.recipe)(state.step)
    updates = jax.tree.map(lambda u: rate * u, updates)
    parameters = optax.apply_updates(state.parameters, updates)
    return state._replace(step=state.step + 1, parameters=parameters, moments=moments), loss

  def examine(self, state: TrainState, sums, test: jax.Array, start: jax.Array, count: jax.Array):
    """`sums` as `judge` has them, with those of some batches of a split added.

    Args:
      state: the member.
      sums: those of the batches before; at first, of zeros.
      test: whether the split is that of the test, or that of validation; as it is data, compiling
        the model once serves both.
      start: the first batch.
      count: how many.

    """
    parameters = state.parameters
    if self.recipe.average:
      parameters = jax.lax.cond(test, self.tested, lambda state: state.parameters, state)

    def body(place, sums):
      batch = self._own(jax.lax.cond(
        test,
        *(
          functools.partial(self.task.batch, split, batch_size=self.recipe.batch_size)
          for split in ('test', 'validation')
        ),
        start + place,
      ))
      return jax.tree.map(jnp.add, sums, self.judge(parameters, batch))

    return jax.lax.fori_loop(0, count, body, sums)

  def examination(self, sums) -> Examination:
    """What sums over batches come to; over all devices that share them."""
    return Examination(*(value / jnp.maximum(weight, 1) for value, weight in self._total(sums)))

  def judge(self, parameters, batch: Batch):
    """Metric and loss of a batch, each as a sum and what to divide it by."""
    arguments, named = self.task.arguments(batch)
    outputs, _ = self.model.apply(parameters, *arguments, **named)
    loss = jnp.sum(batch.weight * self.task.loss(outputs, batch)), jnp.sum(batch.weight)
    return self.task.measure(outputs, batch), loss

  def answer(self, state: TrainState, batch: Batch) -> Answer:
    """What a member makes of a batch of a transduction: how good it is, and what it writes.

    It writes greedily, or the best that a beam finds; at most as many tokens as the targets have
    room for. One device does it all, also where training shares its batches.
    """
    parameters, length = self.tested(state), batch.target.shape[1]
    model = functools.partial(self.model.apply, parameters)
    (source, _), named = self.task.arguments(batch)
    decode = functools.partial(model, method='decode')
    before = model(source, capacity=length, method='encode', **named)
    start = jnp.full(len(source), START)
    if self.recipe.beam == 1:
      written = greedy(decode, before, start, length, END, PAD)
      tokens, broken = written.tokens, written.broken
    else:
      widths = {'beam_size': self.recipe.beam, 'length_penalty': self.recipe.length_penalty}
      found = beam_search(decode, before, start, length, END, PAD, answers=1, **widths)
      tokens, broken = found.tokens[:, 0], jnp.isnan(found.scores[:, 0])
    return Answer(*self.judge(parameters, batch), tokens, broken)

  def _part(self):
    """Which of the devices that share a batch this is."""
    return 0 if self.axis is None else jax.lax.axis_index(self.axis)

  def _total(self, sums):
    """Sums over the devices that share a batch."""
    return sums if self.axis is None else jax.lax.psum(sums, self.axis)

  def _own(self, batch: Batch) -> Batch:
    """What this device takes of a batch."""
    size = self.recipe.batch_size // self.parts
    if self.parts == 1:
      return batch
    return jax.tree.map(
      lambda x: jax.lax.dynamic_slice_in_dim(x, self._part() * size, size), batch
    )
