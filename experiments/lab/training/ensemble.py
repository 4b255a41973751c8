"""An ensemble that trains all seeds and learning rates of a grid cell as one compiled program.

A member is one seed at one learning rate. Arrays of members have shape
[devices, members per device, ...]. On a CPU the members of a device run one after another, so that
a stopped member takes no time. On an accelerator they run in parallel (vmap). For several devices,
`pmap` and `jit` (of shard_map) are two alternatives that give the same numbers. If there is only
one member and several devices, each batch is divided among the devices instead.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.lab import interruption
from experiments.lab.training.chunk_size import ChunkSize
from experiments.lab.training.recipe import PARALLEL, check_choice
from experiments.lab.training.step import Evaluation, Training

AXIS = 'device'


def compile_over_devices(devices, jit_or_pmap: str, function, donated_argument_indices=()):
  """Compiles a function such that each device processes one entry along the inputs' first axis.

  Args:
    devices: the devices, one for each entry of the first axis.
    jit_or_pmap: 'jit' or 'pmap', the transformation that distributes the function.
    function: a function of the arrays of one device.
    donated_argument_indices: the indices of arguments whose buffers are donated.

  Returns:
    The compiled function of arrays [devices, ...].

  Raises:
    ValueError: if `jit_or_pmap` has another value.

  """
  check_choice('parallel', jit_or_pmap, PARALLEL)
  if jit_or_pmap == 'pmap':
    return jax.pmap(function, AXIS, devices=devices, donate_argnums=donated_argument_indices)

  def apply_function_to_device_shard(*shards):  # each has shape [1, ...]
    out = function(*jax.tree.map(lambda x: x[0], shards))
    return jax.tree.map(lambda x: x[None], out)

  mesh, spec = Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS)
  sharded = jax.shard_map(
    apply_function_to_device_shard, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
  return jax.jit(sharded, donate_argnums=donated_argument_indices)


def map_over_ensemble_members(function, platform: str):
  """Converts a function of one ensemble member to a function that processes all members.

  On a CPU the members are evaluated one after another, and on other platforms with vmap.
  """
  if platform != 'cpu':
    return jax.vmap(function)
  return lambda *blocks: jax.lax.map(lambda member: function(*member), blocks)


class Programs(NamedTuple):
  """The compiled functions of all ensembles with the same training, devices and parallelism."""

  initialise: Callable
  train_for_steps: Callable
  evaluate: Callable
  decode: Callable


@functools.lru_cache(maxsize=16)
def create_programs(training: Training, devices: tuple, parallel: str) -> Programs:
  """Creates the programs of an ensemble, which compile on their first use.

  Seeds, learning rates and the numbers of steps and batches are arguments of the programs, so that
  a second ensemble of the same shapes compiles nothing.

  Args:
    training: the training of one member on one device.
    devices: the devices.
    parallel: 'jit' or 'pmap'.

  Returns:
    The programs. They are kept for ensembles with equal arguments.

  """
  platform = devices[0].platform
  compiled = functools.partial(compile_over_devices, devices, parallel)

  def train_active_members(states, loss_sums, active_members, num_steps):
    def train_member_if_active(state, loss_sum, is_active):
      train = functools.partial(training.train_for_steps, num_steps=num_steps)
      return jax.lax.cond(is_active, train, lambda *unchanged: unchanged, state, loss_sum)

    return map_over_ensemble_members(train_member_if_active, platform)(
      states, loss_sums, active_members)

  def evaluate_active_members(
      states, metric_and_loss_sums, active_members, is_test, first_batch, num_batches):
    def evaluate_member_if_active(state, metric_and_loss_sums, is_active, is_test):
      add_batches = functools.partial(
        training.accumulate_evaluation, first_batch=first_batch, num_batches=num_batches)
      sums = jax.lax.cond(
        is_active, add_batches, lambda _, sums, __: sums, state, metric_and_loss_sums, is_test)
      return sums, training.metric_and_loss_from_sums(sums)

    return map_over_ensemble_members(evaluate_member_if_active, platform)(
      states, metric_and_loss_sums, active_members, is_test)

  def decode_batch_with_active_members(states, active_members, batch):
    def decode_with_member_if_active(member_state, is_active):
      decode_batch = lambda state: training.decode(state, batch)  # noqa: E731
      shapes = jax.eval_shape(decode_batch, member_state)
      zeros = lambda _: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)  # noqa: E731
      return jax.lax.cond(is_active, decode_batch, zeros, member_state)

    return map_over_ensemble_members(decode_with_member_if_active, platform)(
      states, active_members)

  return Programs(
    compiled(map_over_ensemble_members(training.initialise, platform)),
    compiled(train_active_members, donated_argument_indices=(0,)),
    compiled(evaluate_active_members),
    compiled(decode_batch_with_active_members),
  )


class Ensemble:
  """Models that differ in seed and learning rate and train together on one or several devices."""

  def __init__(self, training: Training, members, parallel: str = 'jit', devices=None):
    """Assigns the ensemble members to devices and defines programs that compile on first use.

    Args:
      training: the training of one member on one device.
      members: pairs (seed, learning rate).
      parallel: 'jit' or 'pmap'.
      devices: the devices to use, or None for all devices.

    """
    devices = list(jax.devices() if devices is None else devices)
    shared = len(members) == 1 and training.recipe.batch_size % len(devices) == 0
    self.devices = devices if shared else devices[: len(members)]
    self.members_per_device = -(-len(members) // len(self.devices))
    self.members = list(members)
    if len(members) == 1 and len(self.devices) > 1:
      training = training.with_batches_divided_over_devices(len(self.devices), AXIS)
    self.training = training

    self._programs = create_programs(self.training_of_programs, tuple(self.devices), parallel)
    self._training_chunks, self._evaluation_chunks = ChunkSize(), ChunkSize()

  @property
  def training_of_programs(self) -> Training:
    """The training with only those hyperparameters that the compiled programs depend on."""
    return dataclasses.replace(
      self.training, recipe=self.training.recipe.settings_of_programs)

  def initialise(self):
    """Returns the initial training states of all ensemble members."""
    seeds, rates = zip(*self.members, strict=True)
    return self._programs.initialise(
      self._distribute_over_devices(np.array(seeds, np.int32)),
      self._distribute_over_devices(np.array(rates, np.float32)))

  def train_for_steps(
      self, states, active_members, num_steps: int, deadline: float = math.inf):
    """Trains active members for `num_steps` steps in compiled calls of about one second each.

    Args:
      states: the members' states, whose buffers are donated.
      active_members: a mask [members] of the members that train.
      num_steps: the number of steps.
      deadline: the time of `time.monotonic` after which no further call is made.

    Returns:
      The new states, the mean training losses [members] as a NumPy array, and the number of steps
      that were done.

    """
    active = self._distribute_over_devices(active_members)
    losses, done = self._zeros_per_ensemble_member(), 0
    for done, steps in self._training_chunks.split_steps(num_steps):
      states, losses = jax.block_until_ready(
        self._programs.train_for_steps(states, losses, active, self._replicate_over_devices(steps)))
      done += steps
      if time.monotonic() > deadline:
        break
    return states, self.gather_from_devices(losses) / np.float32(max(done, 1)), done

  def evaluate(self, states, split: str, active_members) -> Evaluation:
    """Evaluates the active ensemble members on the validation split or the test split.

    Args:
      states: the members' states.
      split: 'validation' or 'test'.
      active_members: a mask [members] of the members that are evaluated.

    Returns:
      Metrics and losses, each an array [devices, members per device].

    """
    recipe, zeros = self.training.recipe, self._zeros_per_ensemble_member()
    count = {'validation': recipe.validation_batches, 'test': recipe.test_batches}[split]
    is_test = np.full(len(self.members), split == 'test')
    masks = tuple(map(self._distribute_over_devices, (active_members, is_test)))
    sums = (zeros, zeros), (zeros, zeros)
    for start, batches in self._evaluation_chunks.split_steps(count):
      numbers = map(self._replicate_over_devices, (start, batches))
      sums, evaluation = jax.block_until_ready(
        self._programs.evaluate(states, sums, *masks, *numbers))
    return evaluation

  def decode(self, states, batch, active_members):
    """Decodes a batch of a transduction task with the ensemble members that a mask selects.

    Args:
      states: the members' states.
      batch: a `Batch`; each new shape compiles a new program.
      active_members: a mask [members] of the members that decode; the results of others are zeros.

    Returns:
      A `DecodedBatch` with arrays [devices, members per device, ...].

    """
    interruption.raise_if_stopped()
    batch = jax.tree.map(self._replicate_over_devices, batch)
    return self._programs.decode(states, self._distribute_over_devices(active_members), batch)

  def lower_program(self, name: str, **shapes) -> jax.stages.Lowered:
    """Lowers a program of the ensemble to StableHLO from the shapes of its arguments.

    The devices need not be present.
    """
    shaped = functools.partial(jax.ShapeDtypeStruct, sharding=self._device_sharding)
    seeds, rates, active_members = (
      shaped((len(self.devices), self.members_per_device), dtype)
      for dtype in (jnp.int32, jnp.float32, bool)
    )
    states = jax.eval_shape(self._programs.initialise, seeds, rates)
    states, shapes = jax.tree.map(lambda x: shaped(x.shape, x.dtype), (states, shapes))
    programs = {'initialise': (self._programs.initialise, seeds, rates)}
    programs |= self._jitted_functions_and_arguments(states, active_members, **shapes)
    function, *arguments = programs[name]
    return function.lower(*arguments)

  def _jitted_functions_and_arguments(self, states, active_members):
    """Maps the name of each program to a tuple of its jitted function and its argument shapes."""
    numbers, zeros = (
      jax.ShapeDtypeStruct(shape, dtype, sharding=self._device_sharding)
      for shape, dtype in (
        (active_members.shape[:1], jnp.int32), (active_members.shape, jnp.float32))
    )
    sums = (zeros, zeros), (zeros, zeros)
    return {
      'advance': (self._programs.train_for_steps, states, zeros, active_members, numbers),
      'evaluate': (
        self._programs.evaluate, states, sums, active_members, active_members, numbers, numbers),
    }

  def gather_from_devices(self, tree):
    """Converts arrays [devices, members per device, ...] to NumPy arrays [members, ...]."""
    def merge_device_axes(x):
      x = np.asarray(x)
      return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])[: len(self.members)]

    return jax.tree.map(merge_device_axes, tree)

  @property
  def _device_sharding(self) -> NamedSharding:
    """The sharding of arrays [devices, ...] along their first axis."""
    return NamedSharding(Mesh(np.array(self.devices), (AXIS,)), PartitionSpec(AXIS))

  def _zeros_per_ensemble_member(self):
    """Returns zeros [devices, members per device] as initial sums of losses and metrics.

    They have the sharding of the programs' results, which avoids a second compilation.
    """
    zeros = self._distribute_over_devices(np.zeros(len(self.members), np.float32))
    return jax.device_put(zeros, self._device_sharding)

  def _replicate_over_devices(self, value):
    """Repeats a value along a new first axis [devices, ...]."""
    value = np.asarray(value, np.int32) if isinstance(value, int) else value
    return np.broadcast_to(value, (len(self.devices), *value.shape))

  def _distribute_over_devices(self, values):
    """Pads and reshapes an array [ensemble members, ...] to [devices, members per device, ...].

    Missing entries repeat the last member.
    """
    values = np.asarray(values)
    slots = np.arange(len(self.devices) * self.members_per_device)
    shape = (self.members_per_device, len(self.devices), *values.shape[1:])
    distributed = values[np.minimum(slots, len(self.members) - 1)].reshape(shape).swapaxes(0, 1)
    if distributed.dtype == bool:  # padding is never active
      index = slots.reshape(self.members_per_device, len(self.devices)).T
      distributed = distributed & ((index < len(self.members)) | (len(self.members) == 1))
    return distributed
