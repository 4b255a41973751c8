"""An ensemble: the seeds x learning rates of one cell as one compiled program, on all devices.

Members stand in arrays [devices, members on each, ...]. On a device they run one after another on
a CPU, where a stopped member then costs nothing, and side by side (vmap) on an accelerator. Over
the devices, `pmap` and `jit` (of shard_map) are two ways to the same numbers. A single member on
several devices has its batches shared out between them instead.
"""

import functools
import math
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.lab import interruption
from experiments.lab.training.pace import Pace
from experiments.lab.training.recipe import PARALLEL, check_choice
from experiments.lab.training.step import Examination, Training

AXIS = 'device'


def compile_over(devices, parallel: str, function, donate=()):
  """A function of blocks -> one of arrays [devices, ...], each block on its own device."""
  check_choice('parallel', parallel, PARALLEL)
  if parallel == 'pmap':
    return jax.pmap(function, AXIS, devices=devices, donate_argnums=donate)

  def local(*blocks):  # each [1, ...]
    out = function(*jax.tree.map(lambda x: x[0], blocks))
    return jax.tree.map(lambda x: x[None], out)

  mesh, spec = Mesh(np.array(devices), (AXIS,)), PartitionSpec(AXIS)
  over = jax.shard_map(local, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
  return jax.jit(over, donate_argnums=donate)


def over_members(function, platform: str):
  """A function of one member -> one of all members of a device, [members, ...]."""
  if platform != 'cpu':
    return jax.vmap(function)
  return lambda *blocks: jax.lax.map(lambda one: function(*one), blocks)


class Ensemble:
  """Members that train together; what goes in and comes out is in the members' own order."""

  def __init__(self, training: Training, members, parallel: str = 'jit', devices=None):
    """Compiles nothing yet.

    Args:
      training: what each member does, on one device.
      members: (seed, learning rate) of each.
      parallel: 'jit' or 'pmap'.
      devices: where; None: everywhere.

    """
    devices = list(jax.devices() if devices is None else devices)
    shared = len(members) == 1 and training.recipe.batch_size % len(devices) == 0
    self.devices = devices if shared else devices[: len(members)]
    self.on_each = -(-len(members) // len(self.devices))
    self.members = list(members)
    if len(members) == 1 and len(self.devices) > 1:
      training = training.shared(len(self.devices), AXIS)
    self.training = training

    platform = self.devices[0].platform
    compiled = functools.partial(compile_over, self.devices, parallel)
    self._initialise = compiled(over_members(training.initialise, platform))

    def advance(states, losses, active, count):
      def one(state, losses, active):
        work = functools.partial(training.advance, count=count)
        return jax.lax.cond(active, work, lambda *idle: idle, state, losses)

      return over_members(one, platform)(states, losses, active)

    self._advance = compiled(advance, donate=(0,))

    def examine(states, sums, active, test, start, count):
      def one(state, sums, active, test):
        work = functools.partial(training.examine, start=start, count=count)
        sums = jax.lax.cond(active, work, lambda _, sums, __: sums, state, sums, test)
        return sums, training.examination(sums)

      return over_members(one, platform)(states, sums, active, test)

    self._examine = compiled(examine)
    self._pace, self._pace_of_looks = Pace(), Pace()

    def answer(states, active, batch):
      def one(state, active):
        work = lambda state: training.answer(state, batch)  # noqa: E731
        like = jax.eval_shape(work, state)
        nothing = lambda _: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like)  # noqa: E731
        return jax.lax.cond(active, work, nothing, state)

      return over_members(one, platform)(states, active)

    self._answer = compiled(answer)

  def initialise(self):
    """The members' states, at step 0."""
    seeds, rates = zip(*self.members, strict=True)
    return self._initialise(
      self._spread(np.array(seeds, np.int32)), self._spread(np.array(rates, np.float32))
    )

  def advance(self, states, active, count: int, until: float = math.inf):
    """Trains the active members, in calls of about a second.

    Args:
      states: the members'; they are given up.
      active: [members] who trains.
      count: steps.
      until: when to stop even so, after a call; as `time.monotonic` says.

    Returns:
      the states, the mean losses [members] as NumPy has them, and how many steps were made.

    """
    active, losses, made = self._spread(active), self._zeros(), 0
    for made, part in self._pace.parts(count):
      states, losses = jax.block_until_ready(
        self._advance(states, losses, active, self._everywhere(part)))
      made += part
      if time.monotonic() > until:
        break
    return states, self.gather(losses) / np.float32(max(made, 1)), made

  def examine(self, states, split: str, active) -> Examination:
    """What the active members score on the 'validation' or the 'test' split."""
    recipe, zeros = self.training.recipe, self._zeros()
    count = {'validation': recipe.validation_batches, 'test': recipe.test_batches}[split]
    flags = self._spread(active), self._spread(np.full(len(self.members), split == 'test'))
    sums = (zeros, zeros), (zeros, zeros)
    for start, part in self._pace_of_looks.parts(count):
      sums, examination = jax.block_until_ready(
        self._examine(states, sums, *flags, *map(self._everywhere, (start, part))))
    return examination

  def answer(self, states, batch, active):
    """What the active members make of a batch of a transduction; one program a shape."""
    interruption.check()
    return self._answer(states, self._spread(active), jax.tree.map(self._everywhere, batch))

  def lowered(self, name: str, **shapes) -> jax.stages.Lowered:
    """One of the programs that are called here, from shapes alone: no device need be here."""
    shaped = functools.partial(jax.ShapeDtypeStruct, sharding=self._placed)
    seeds, rates, flags = (
      shaped((len(self.devices), self.on_each), kind) for kind in (jnp.int32, jnp.float32, bool)
    )
    states = jax.eval_shape(self._initialise, seeds, rates)
    states, shapes = jax.tree.map(lambda x: shaped(x.shape, x.dtype), (states, shapes))
    calls = {'initialise': (self._initialise, seeds, rates)}
    function, *arguments = (calls | self._calls(states, flags, **shapes))[name]
    return function.lower(*arguments)

  def _calls(self, states, flags):
    """Programs that are called with states, and the shapes of their arguments."""
    numbers, zeros = (
      jax.ShapeDtypeStruct(shape, kind, sharding=self._placed)
      for shape, kind in ((flags.shape[:1], jnp.int32), (flags.shape, jnp.float32))
    )
    sums = (zeros, zeros), (zeros, zeros)
    return {
      'advance': (self._advance, states, zeros, flags, numbers),
      'examine': (self._examine, states, sums, flags, flags, numbers, numbers),
    }

  def gather(self, tree):
    """Arrays [devices, members on each, ...] as NumPy arrays [members, ...]; waits for them."""
    def own(x):
      x = np.asarray(x)
      return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])[: len(self.members)]

    return jax.tree.map(own, tree)

  @property
  def _placed(self) -> NamedSharding:
    """How arrays [devices, ...] lie on the devices."""
    return NamedSharding(Mesh(np.array(self.devices), (AXIS,)), PartitionSpec(AXIS))

  def _zeros(self):
    """Sums before the first call; placed as a call returns them, or the next would compile anew."""
    return jax.device_put(self._spread(np.zeros(len(self.members), np.float32)), self._placed)

  def _everywhere(self, value):
    """The same value on each device, [devices, ...]."""
    value = np.asarray(value, np.int32) if isinstance(value, int) else value
    return np.broadcast_to(value, (len(self.devices), *value.shape))

  def _spread(self, values):
    """[members, ...] -> [devices, members on each, ...]; places left over repeat the last."""
    values = np.asarray(values)
    places = np.minimum(np.arange(len(self.devices) * self.on_each), len(self.members) - 1)
    shape = (self.on_each, len(self.devices), *values.shape[1:])
    spread = values[places].reshape(shape).swapaxes(0, 1)
    if spread.dtype == bool:  # whoever only fills a place does nothing
      taken = np.arange(places.size).reshape(self.on_each, len(self.devices)).T
      spread = spread & ((taken < len(self.members)) | (len(self.members) == 1))
    return spread
