"""One cell of speed: a computation of ours against others' of the same, in turns on one machine.

  forward    the outputs
  gradient   the outputs and the gradient of all that went in, or whole steps down it

Equality comes first. All contestants get the same numbers, each in the layout that is its own; who
does not come to the same outputs and gradients as ours computes something else, and is refused
instead of timed. A library that is not there, or not on this device, is left out. Both are said
in the record, and no reason to leave out the others. Products of large matrices take turns with
them all: the machine's peak.

What is written in JAX, ours and others', has its batch shared out between the devices that a CPU is
split into, one a core, as training has: a product in a loop runs on one core of a device.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.lab.cells.cell import EXHAUSTED, Cell, Outcome
from experiments.lab.measure import memory
from experiments.lab.measure.time import interleaved
from experiments.speed import OURS, peak

AXIS = 'device'
PREPARING = 0.5  # of a cell's progress
# The largest part of a result's norm by which results of the same computation may differ: their
# sums are taken in other orders, and an accelerator multiplies float32 in fewer digits.
TOLERANCES = {'cpu': 2e-4}
ROUGHLY = 3e-2
RATE = 1e-3  # of steps down a gradient: large enough that they move what they start from


class LeftOut(Exception):
  """Why a contestant cannot take part here."""


class Contestant(NamedTuple):
  """What is timed of one contestant, and what shows that it computes what it should."""

  calls: Mapping[str, Callable[[], Any]]  # 'forward', 'gradient'
  results: Callable[[], Any]  # a tree of arrays, in our layout
  plan: memory.MemoryUse | None = None  # of its largest program, where there is one


class Contest(NamedTuple):
  """Who takes part, each made when its turn comes, ours first; and the work of it."""

  contestants: Mapping[str, Callable[[], Contestant]]
  work: Mapping[str, float]  # operations of our matrix products, where they are most of the work


class Rival(NamedTuple):
  """Somebody's function of the same numbers.

  `batch_axes` are the axes along which its arguments, and last its output, hold the batch; None for
  an argument that all sequences share. The maps are linear, so that what it comes to goes back to
  our layout by their transposes: the gradient through `adapt`, the output through `arrange`, which
  only moves numbers about.
  """

  function: Callable  # what `enter` takes: for JAX, own arguments -> own output
  adapt: Callable = lambda *arguments: arguments  # our arguments -> a tuple of its own
  arrange: Callable = lambda output: output  # our output -> its own
  enter: Callable | None = None  # makes a contestant of it; None: `in_jax`
  batch_axes: tuple = ()  # empty: as ours


def contest(
  ours: Callable,
  arguments: tuple,
  batch_axes: tuple,
  rivals: Mapping[str, Rival],
  work: float | None = None,
  steps: int = 0,
) -> Contest:
  """A function of arrays against rivals of the same.

  Args:
    ours: the function; it returns one array.
    arguments: trees of arrays.
    batch_axes: of our arguments and our output, as in `Rival`.
    rivals: by name.
    work: operations of the matrix products of the outputs; their gradient takes twice as many.
    steps: if any, what is timed is so many steps down the gradient in one loop, and no more.

  """
  shape = jax.eval_shape(ours, *arguments)
  pull = jax.random.normal(jax.random.key(shape.size), shape.shape, shape.dtype)
  operations = {}
  if work is not None:
    operations['gradient'] = 3 * work * max(1, steps)
  everyone = {OURS: Rival(ours)} | rivals
  return Contest(
    {
      name: functools.partial(
        _enter, rival._replace(batch_axes=rival.batch_axes or batch_axes), arguments, pull, steps)
      for name, rival in everyone.items()
    },
    operations,
  )


def _enter(rival: Rival, arguments: tuple, pull: jax.Array, steps: int) -> Contestant:
  """A contestant that gets our numbers in its own layout, and shows its results in ours."""
  own, gradient_back = jax.vjp(jax.jit(rival.adapt), *arguments)
  own_pull, output_back = jax.vjp(jax.jit(rival.arrange), pull)
  enter = rival.enter or functools.partial(in_jax, rival.batch_axes)
  made = enter(rival.function, own, own_pull, steps)

  def results():
    back = {'output': output_back, 'gradient': gradient_back}
    return {
      name: jax.jit(back[name])(value) for name, value in made.results().items()
    }

  return made._replace(results=results)


def shared_out(
  function: Callable, batch_axes: tuple, arguments: tuple, pull: jax.Array
) -> tuple[Callable, tuple, jax.Array]:
  """The function, on all devices that divide the batch, and its arguments and pull laid out so."""
  specs = [
    PartitionSpec() if axis is None else PartitionSpec(*(None,) * axis, AXIS)
    for axis in batch_axes
  ]
  count = math.gcd(pull.shape[batch_axes[-1]], jax.device_count())
  mesh = Mesh(np.array(jax.devices()[:count]), (AXIS,))
  *places, last = (NamedSharding(mesh, spec) for spec in specs)
  function = jax.shard_map(
    function, mesh=mesh, in_specs=tuple(specs[:-1]), out_specs=specs[-1], check_vma=False
  )
  arguments = tuple(jax.device_put(a, place) for a, place in zip(arguments, places, strict=True))
  return function, arguments, jax.device_put(pull, last)


def in_jax(
  batch_axes: tuple, function: Callable, arguments: tuple, pull: jax.Array, steps: int
) -> Contestant:
  """A contestant that is a JAX function of its arguments, compiled ahead of time.

  Args:
    batch_axes: of the arguments and the output, as in `Rival`.
    function: of the arguments; it returns one array.
    arguments: trees of arrays.
    pull: what the output is multiplied with for the scalar whose gradient is taken.
    steps: as in `contest`.

  """
  function, arguments, pull = shared_out(function, batch_axes, arguments, pull)

  def gradient(pull, *arguments):
    output, back = jax.vjp(function, *arguments)
    return output, back(pull)

  def descend(pull, *arguments):
    def step(arguments, _):
      _, slope = gradient(pull, *arguments)
      return jax.tree.map(lambda a, s: a - RATE * s, arguments, slope), None

    return jax.lax.scan(step, arguments, length=steps)[0]

  def ready(function, *arguments):
    program = jax.jit(function).lower(*arguments).compile()
    return functools.partial(program, *arguments), memory.of_program(program)

  if steps:
    call, plan = ready(descend, pull, *arguments)
    return Contestant({'gradient': call}, lambda: {'gradient': call()}, plan)
  forward, _ = ready(function, *arguments)
  both, plan = ready(gradient, pull, *arguments)
  return Contestant(
    {'forward': forward, 'gradient': both},
    lambda: dict(zip(('output', 'gradient'), both(), strict=True)),
    plan,
  )


@dataclasses.dataclass
class Entry:
  """What a contestant came to."""

  name: str
  status: str = 'timeout'  # until there are times
  reason: str = ''
  bytes: int | None = None  # temporary ones of forward and gradient
  seconds: dict[str, list[float]] = dataclasses.field(default_factory=dict)

  def ends(self, status: str, reason: object) -> None:
    """Says why there are no times."""
    self.status, self.reason = status, str(reason).partition('\n')[0]

  def excused(self, error: Exception) -> bool:
    """Whether an error is a result: memory that is short, a library that is not there."""
    if isinstance(error, LeftOut):
      self.ends('left out', error)
    elif isinstance(error, MemoryError) or EXHAUSTED.search(str(error)):
      self.ends('out of memory', error)
    else:
      return False
    return True


def time_cell(contests: Mapping[str, Callable[..., Contest]], timeout: float):
  """What measures a cell, for `grid.launch`; `contests` are what a cell can name."""
  return functools.partial(_measure, contests, timeout)


def _measure(contests, timeout: float, cell: Cell, report) -> Outcome:
  end, run = time.monotonic() + timeout, cell.run
  arena = contests[run['what']](seed=run['seed'], **run['sizes'])
  entries, calls = _prepare(arena, run['timed'], report)
  if run['timed']:
    calls |= {('peak', size): call for size, call in peak.products(run['peak']).items()}
  times = interleaved(
    calls,
    run['rounds'],
    timeout=end - time.monotonic(),
    excuse=lambda key, error: key[0] in entries and entries[key[0]].excused(error),
    progress=lambda part: report(PREPARING + (1 - PREPARING) * part, f'{part:.0%} of the rounds'),
  )
  for (name, what), seconds in times.items():
    if seconds and name in entries:
      entries[name].seconds[what] = seconds
  for entry in entries.values():
    if entry.status == 'timeout' and (entry.seconds or not run['timed']):
      entry.status = 'finished'
  result = {
    'platform': jax.default_backend(),
    'work': dict(arena.work),
    'contestants': [dataclasses.asdict(entry) for entry in entries.values()],
    'peak': [
      {'work': peak.work(size), 'seconds': seconds}
      for (name, size), seconds in times.items() if name == 'peak' and seconds
    ],
  }
  return Outcome(result, *_status(entries))


def _status(entries: Mapping[str, Entry]) -> tuple[str, str]:
  """How a cell ended: with its first contestant that could take part and has no times."""
  for entry in entries.values():
    if entry.status in ('failed', 'timeout'):
      return entry.status, f'{entry.name}: {entry.reason or "no times"}'
  return 'finished', ''


def _prepare(arena: Contest, timed: bool, report) -> tuple[dict[str, Entry], dict]:
  """What each contestant came to before the first round, and the calls of those that go on."""
  entries, calls, ours = {}, {}, None
  for place, (name, make) in enumerate(arena.contestants.items()):
    report(PREPARING * place / len(arena.contestants), f'preparing {name}')
    entry = entries[name] = Entry(name)
    try:
      contestant = make()
      if contestant.plan:
        entry.bytes = contestant.plan.temporary
      if not timed:
        continue
      memory.require(contestant.plan)
      results = contestant.results()
    except (LeftOut, MemoryError, jax.errors.JaxRuntimeError) as error:
      if name == OURS or not entry.excused(error):
        raise
      continue
    ours = results if ours is None else ours
    if fault := compare(results, ours):
      entry.ends('failed', fault)
    else:
      calls |= {(name, what): call for what, call in contestant.calls.items()}
  return entries, calls


def compare(results: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
  """Why results are not those of the same computation as ours; '' if they are."""
  limit = TOLERANCES.get(jax.default_backend(), ROUGHLY)
  for name, expected in ours.items():
    for (path, want), got in zip(
      jax.tree.leaves_with_path(expected), jax.tree.leaves(results[name]), strict=True
    ):
      off = _distance(np.asarray(got, np.float64), np.asarray(want, np.float64))
      if not off <= limit:  # a NaN is no agreement
        where = f'{name}{jax.tree_util.keystr(path)}'
        return f'another computation: its {where} differs from ours by {off:.1e} of the norm'
  return ''


def _distance(got: np.ndarray, want: np.ndarray) -> float:
  """The norm of the difference, in parts of the expected one's."""
  norm = float(np.linalg.norm(want))
  return float(np.linalg.norm(got - want)) / norm if norm else float(np.linalg.norm(got))
