"""Pure functions that initialise, train and evaluate one member of an ensemble.

A member is one seed at one learning rate. Seed s is trained on batches s * steps to
(s + 1) * steps - 1. Models that are compared at equal seeds are therefore trained on the same data
in the same order, and two seeds have no training batch in common. Validation and test batches are
the same for all members.
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
from experiments.lab.training.optimizer import learning_rate_schedule, optimizer
from experiments.lab.training.output_loss import sum_losses, sum_metric_and_losses
from experiments.lab.training.recipe import Recipe
from transformer.decoding import beam_search, greedy_search


class TrainState(NamedTuple):
  """The training state of one ensemble member, with its parameters and optimiser state."""

  step: jax.Array  # [] steps done
  seed: jax.Array  # []
  learning_rate: jax.Array  # [] at the schedule's peak
  parameters: Any
  moments: Any  # the optimiser's state
  average: Any = ()  # the sum of the parameters at the last validations, if averaging is on


class Evaluation(NamedTuple):
  """The metric and the mean loss of an ensemble member on the validation or test split."""

  metric: jax.Array  # [] the task's metric
  loss: jax.Array  # [] the mean loss over the scored tokens


class DecodedBatch(NamedTuple):
  """The decoded tokens of a batch, with the sums from which metric and loss are computed.

  The metric and the loss are each stored as a pair (weighted sum, total weight).
  """

  metric: tuple[jax.Array, jax.Array]
  loss: tuple[jax.Array, jax.Array]
  tokens: jax.Array  # [B, T]
  broken: jax.Array  # [B] whether decoding stopped because the logits were NaN


@dataclasses.dataclass(frozen=True)
class Training:
  """A model, a task and a recipe, with pure functions that train and evaluate the model.

  Where several devices share each batch, losses, gradients and the numbers of scored tokens are
  summed over the devices before the division. Every scored token then has the same weight.
  """

  model: nn.Module
  task: Task
  recipe: Recipe
  num_devices: int = 1  # that share each batch
  axis: str | None = None  # the name of the mapped axis over these devices

  def with_batches_divided_over_devices(self, num_devices: int, axis: str) -> 'Training':
    """Returns a copy of the trainer that divides each batch among the devices of a mapped axis."""
    return dataclasses.replace(self, num_devices=num_devices, axis=axis)

  def initialise(self, seed: jax.Array, learning_rate: jax.Array) -> TrainState:
    """Returns the initial training state of an ensemble member."""
    arguments, named = self.task.model_arguments(self.task.batch('train', 0, 1))
    parameters = self.model.init(jax.random.key(seed), *arguments, **named)
    moments = optimizer(self.recipe).init(parameters)
    average = jax.tree.map(jnp.zeros_like, parameters) if self.recipe.average else ()
    return TrainState(jnp.zeros((), jnp.int32), seed, learning_rate, parameters, moments, average)

  def train_for_steps(
    self, state: TrainState, loss_sum: jax.Array, num_steps: jax.Array
  ) -> tuple[TrainState, jax.Array]:
    """Trains an ensemble member for `num_steps` steps.

    Args:
      state: the member's state.
      loss_sum: the sum of training losses so far, [].
      num_steps: the number of steps, [].

    Returns:
      The new state, and `loss_sum` plus the training loss of each step.

    """
    def train_on_next_batch(_, carry):
      state, loss_sum = carry
      index = state.seed * self.recipe.steps + state.step
      batch = self._batch_rows_of_this_device(
        self.task.batch('train', index, self.recipe.batch_size))
      state, loss = self.train_step(state, batch)
      return state, loss_sum + loss

    state, loss_sum = jax.lax.fori_loop(0, num_steps, train_on_next_batch, (state, loss_sum))
    return self.add_to_parameter_average(state), loss_sum

  def add_to_parameter_average(self, state: TrainState) -> TrainState:
    """Adds the parameters to a running sum, if the average includes the parameters at this step."""
    if not self.recipe.average:
      return state
    at_interval = state.step % self.recipe.validation_interval == 0
    validated = at_interval | (state.step == self.recipe.steps)
    averaged = validated & (self._num_averaged_parameter_snapshots(state.step) > 0)
    add = lambda s: s._replace(average=jax.tree.map(jnp.add, s.average, s.parameters))  # noqa: E731
    return jax.lax.cond(averaged, add, lambda s: s, state)

  def parameters_for_test(self, state: TrainState):
    """Returns the current parameters or, if averaging is on, a mean of recent parameters.

    The mean is that of the parameters at the last few validation steps. The current parameters are
    also returned if training stopped before the first averaged validation.
    """
    if not self.recipe.average:
      return state.parameters
    count = self._num_averaged_parameter_snapshots(state.step)
    mean = lambda total, p: jnp.where(count > 0, total / jnp.maximum(count, 1), p)  # noqa: E731
    return jax.tree.map(mean, state.average, state.parameters)

  def _num_averaged_parameter_snapshots(self, step):
    """Returns how many parameter snapshots have been added to the average by a given step.

    Each of the last `recipe.average` validations adds one snapshot.
    """
    total = -(-self.recipe.steps // self.recipe.validation_interval)
    done = jnp.where(step == self.recipe.steps, total, step // self.recipe.validation_interval)
    return jnp.maximum(done - (total - min(total, self.recipe.average)), 0)

  def train_step(self, state: TrainState, batch: Batch) -> tuple[TrainState, jax.Array]:
    """Performs one training step on a batch, or on the rows that this device processes.

    Returns the new state and the loss before the step.
    """
    key = jax.random.fold_in(jax.random.key(state.seed), state.step)
    arguments, named = self.task.model_arguments(batch)

    def training_loss(parameters):
      dropout = {'dropout': jax.random.fold_in(key, self._device_index())}
      features, _ = self.model.apply(
        parameters, *arguments, train=True, rngs=dropout, method='features', **named)
      return sum_losses(
        self.model, self.task, parameters, features, batch, self.recipe.label_smoothing)

    sums = jax.value_and_grad(training_loss)(state.parameters)
    sums, weight = self._sum_over_devices((sums, jnp.sum(batch.weight)))
    loss, gradient = jax.tree.map(lambda x: x / jnp.maximum(weight, 1), sums)

    updates, moments = optimizer(self.recipe).update(gradient, state.moments, state.parameters)
    rate = -state.learning_rate * learning_rate_schedule(self.recipe)(state.step)
    updates = jax.tree.map(lambda u: rate * u, updates)
    parameters = optax.apply_updates(state.parameters, updates)
    return state._replace(step=state.step + 1, parameters=parameters, moments=moments), loss

  def accumulate_evaluation(
    self, state: TrainState, sums, is_test: jax.Array, first_batch: jax.Array,
    num_batches: jax.Array
  ):
    """Adds the metrics and losses of validation or test batches to running sums.

    Args:
      state: the member's state.
      sums: the sums of earlier batches as `metric_and_loss_sums` returns them, initially zeros.
      is_test: whether the batches are from the test split and not the validation split; it is an
        array, so that one compiled program serves both splits.
      first_batch: the index of the first batch.
      num_batches: the number of batches.

    Returns:
      The new sums.

    """
    parameters = state.parameters
    if self.recipe.average:
      parameters = jax.lax.cond(
        is_test, self.parameters_for_test, lambda state: state.parameters, state)

    def add_batch_to_sums(batch_offset, sums):
      batch = self._batch_rows_of_this_device(jax.lax.cond(
        is_test,
        *(
          functools.partial(self.task.batch, split, batch_size=self.recipe.batch_size)
          for split in ('test', 'validation')
        ),
        first_batch + batch_offset,
      ))
      return jax.tree.map(jnp.add, sums, self.metric_and_loss_sums(parameters, batch))

    return jax.lax.fori_loop(0, num_batches, add_batch_to_sums, sums)

  def metric_and_loss_from_sums(self, weighted_sums) -> Evaluation:
    """Computes the metric and the mean loss from the weighted sums of all devices."""
    totals = self._sum_over_devices(weighted_sums)
    return Evaluation(*(value / jnp.maximum(weight, 1) for value, weight in totals))

  def metric_and_loss_sums(self, parameters, batch: Batch):
    """The metric and the loss of a batch, each as a pair (weighted sum, total weight)."""
    arguments, named = self.task.model_arguments(batch)
    features, _ = self.model.apply(parameters, *arguments, method='features', **named)
    return sum_metric_and_losses(self.model, self.task, parameters, features, batch)

  def decode(self, state: TrainState, batch: Batch) -> DecodedBatch:
    """Generates target tokens for a batch, and computes the metric and the loss of the batch.

    Decoding is greedy or by beam search. Outputs are at most as long as the padded targets. One
    device decodes the complete batch, even if the devices share training batches.
    """
    parameters, length = self.parameters_for_test(state), batch.target.shape[1]
    model = functools.partial(self.model.apply, parameters)
    (source, _), named = self.task.model_arguments(batch)
    decode = functools.partial(model, method='decode')
    encoded = model(source, capacity=length, method='encode', **named)
    start = jnp.full(len(source), START)
    if self.recipe.beam == 1:
      output = greedy_search(decode, encoded, start, length, END, PAD)
      tokens, broken = output.tokens, output.broken
    else:
      options = {'beam_size': self.recipe.beam, 'length_penalty': self.recipe.length_penalty}
      output = beam_search(
        decode, encoded, start, length, END, PAD, num_return_sequences=1, **options)
      tokens, broken = output.tokens[:, 0], jnp.isnan(output.scores[:, 0])
    return DecodedBatch(*self.metric_and_loss_sums(parameters, batch), tokens, broken)

  def _device_index(self):
    """The index of this device among the devices that share a batch."""
    return 0 if self.axis is None else jax.lax.axis_index(self.axis)

  def _sum_over_devices(self, sums):
    return sums if self.axis is None else jax.lax.psum(sums, self.axis)

  def _batch_rows_of_this_device(self, batch: Batch) -> Batch:
    """Returns the rows of a batch that this device processes."""
    size = self.recipe.batch_size // self.num_devices
    if self.num_devices == 1:
      return batch
    return jax.tree.map(
      lambda x: jax.lax.dynamic_slice_in_dim(x, self._device_index() * size, size), batch
    )
