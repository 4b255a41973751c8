"""One cell of programs compiled ahead of time: all that a model needs on a TPU that is not here.

  ensemble   advance: a member a chip (or two, where there is one chip), each with its own batches
  shared     initialise, advance, examine: one member on all chips, each with its part of a batch
  generate   prompt: all but the last token of sequences that chips share, read into a state;
             token: the next token of each of them, from that state

Training is what `Ensemble` compiles for a launch, made over the chips of a topology instead of
those that are here. Chips that share a batch sum gradients; no others have anything to say. A
translator reads a corpus, so that the host gives it batches: what is compiled is one step on a
batch (`Streamed`), instead of a loop that draws its own, and all chips share it.

Operations are counted from the jaxpr, for a whole batch of one member: how they are shared out is
not part of a model. They are those of the forms that accelerators run, but for attention's kernels,
which say nothing of what they do: it is counted as it is computed without them.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.compile_tpu import collectives, devices, topologies
from experiments.lab.cells import checks, experiment, spec
from experiments.lab.cells.cell import EXHAUSTED, Cell, Outcome
from experiments.lab.cells.experiment import Experiment
from experiments.lab.cells.run import Run, run_from
from experiments.lab.corpora.reserved import PAD, START
from experiments.lab.errors import BadInput
from experiments.lab.measure import memory, work
from experiments.lab.training.ensemble import AXIS, Ensemble
from experiments.lab.training.step import Training
from experiments.lab.training.streaming import Streamed
from transformer import platform
from transformer.presets import TABLE_3

KERNEL = 'custom_call_target="tpu_custom_call"'  # what a Pallas kernel is compiled to
RATE = 1e-3


@dataclasses.dataclass
class Program:
  """What became of a program."""

  part: str
  name: str
  status: str = 'finished'
  reason: str = ''
  arguments: int | None = None  # bytes of a chip
  temporary: int | None = None  # bytes of a chip
  collectives: dict = dataclasses.field(default_factory=dict)  # kind -> how many, and their bytes
  kernels: int | None = None  # Pallas kernels

  def failed(self, error: Exception) -> 'Program':
    """The same, with why there is none: that is what was asked."""
    status = 'out of memory' if EXHAUSTED.search(str(error)) else 'failed'
    reason = f'{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}'
    return dataclasses.replace(self, status=status, reason=reason)


@dataclasses.dataclass(frozen=True)
class PaperModel(Experiment):
  """A run whose layer is a row of the 2017 paper's Table 3, which brings its own sizes."""

  @property
  def model(self) -> nn.Module:
    """The row's model."""
    return self.layer.model(self.task.inputs.size, dtype=jnp.dtype(self.run.dtype))

  @property
  def match(self) -> dict:
    """The row's width; nothing is matched."""
    return {'width': self.layer.width}


def resolved(run: Run) -> Experiment:
  """The experiment of a run, whose layer may be a row of Table 3."""
  if run.layer in TABLE_3:
    return PaperModel(run, spec.parse(run.task, 'task'), TABLE_3[run.layer])
  return experiment.resolve(run)


def check(one: Experiment, topology: str) -> None:
  """A BadInput for what a run cannot be, such as one with a batch that chips cannot share."""
  if not isinstance(one, PaperModel):
    checks.check(one)
  count = topologies.count(topology)
  if one.run.batch_size % count:
    raise BadInput(
      f'--batch_size={one.run.batch_size} is no multiple of the {count} chips of {topology}: '
      'they share it equally'
    )


def compile_cell(cell: Cell, report) -> Outcome:
  """Compiles a cell's programs; for `grid.launch`."""
  values = dict(cell.run)
  topology, parallel = values.pop('topology'), values.pop('parallel')
  one, room = resolved(run_from(values)), topologies.memory(topology)
  chips = devices.chips(topology)
  result = {'chips': len(chips), 'memory': room, 'operations': operations(one)}
  programs = []
  with platform.assumed('tpu'):
    traced = list(lowered(*training_of(one), chips, parallel))
    # One by one: in threads libtpu is no faster, and has crashed.
    for program, one in traced:
      report(len(programs) / len(traced), f'{program.part}: {program.name}')
      programs.append(compiled(program, one, room))
  result['programs'] = [dataclasses.asdict(program) for program in programs]
  return Outcome(result, *_status(programs))


def training_of(one: Experiment) -> tuple[Training, int]:
  """What a run trains, and the model's width."""
  return Training(one.model, one.task, one.run), one.match['width']


def lowered(training: Training, width: int, chips, parallel: str) -> Iterator[tuple]:
  """Every program as it is known before, and lowered; or the error that came instead."""
  members = [(seed, RATE) for seed in range(max(2, len(chips)))]
  if training.task.answered_by == 'layer':
    several, alone = (Ensemble(training, m, parallel, chips) for m in (members, members[:1]))
    parts = [
      ('ensemble', 'advance', several.lowered),
      *(('shared', name, alone.lowered) for name in ('advance', 'examine', 'initialise')),
    ]
  else:
    streamed = Streamed(training, members[:1], parallel, chips)
    lower = functools.partial(streamed.lowered, batch=parts_of(training, len(chips)))
    parts = [('shared', name, lower) for name in ('step', 'initialise')]
  generate = functools.partial(generation, training, width, chips)
  for part, name, lower in *parts, *(('generate', name, generate) for name in ('prompt', 'token')):
    program = Program(part, name)
    try:
      yield program, lower(name)
    except Exception as error:  # of whatever kind: the question is whether it compiles
      yield program.failed(error), None


def compiled(program: Program, traced, room: int) -> Program:
  """What a lowered program comes to on chips of so much memory."""
  if traced is None:
    return program
  try:
    made = traced.compile()
  except Exception as error:
    return program.failed(error)
  plan, text = memory.of_program(made), made.as_text()
  program = dataclasses.replace(
    program, arguments=plan.arguments, temporary=plan.temporary,
    collectives=collectives.of_text(text), kernels=text.count(KERNEL),
  )
  needed = plan.arguments + plan.temporary + plan.results
  if needed > room:
    return program.failed(MemoryError(f'out of memory: {needed} bytes of {room} on a chip'))
  return program


def generation(training: Training, width: int, chips, name: str) -> jax.stages.Lowered:
  """Reading a prompt or writing a token, for sequences that chips share."""
  mesh = Mesh(np.array(chips), (AXIS,))

  def placed(tree):  # arrays have the batch first; what has no axis is everybody's
    return jax.tree.map(lambda x: PartitionSpec(AXIS) if x.shape else PartitionSpec(), tree)

  function, parameters, *others = calls_of(training, width)[name]
  out = jax.eval_shape(function, parameters, *others)
  specs = jax.tree.map(lambda _: PartitionSpec(), parameters), *map(placed, others)
  over = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=placed(out), check_vma=False)
  shapes = jax.tree.map(
    lambda x, spec: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec)),
    (parameters, *others), specs,
  )
  return jax.jit(over, donate_argnums=2).lower(*shapes)


def calls_of(training: Training, width: int) -> dict[str, tuple]:
  """To read a prompt and to write a token: each a function and the shapes of its arguments.

  The arguments are parameters, tokens [B, T] and a state; what comes out is a token [B, 1] and the
  state after it.
  """
  task, model = training.task, training.model
  start, batch = shapes(training)
  size, length = batch.source.shape
  token = jax.ShapeDtypeStruct((size, 1), batch.source.dtype)

  def step(parameters, tokens, state, method=None):
    logits, state = model.apply(parameters, tokens, state, method=method)
    return jnp.argmax(logits[:, -1:], -1).astype(tokens.dtype), state

  if task.answered_by == 'layer':
    prompt = jax.ShapeDtypeStruct((size, length - 1), batch.source.dtype)
    state = jax.eval_shape(lambda: model.initial_state(size, length, width))
    read = write = step
  else:
    prompt, state, write = batch.source, (), functools.partial(step, method='decode')

    def read(parameters, tokens, state):
      capacity = {'mask': tokens != PAD, 'capacity': batch.target.shape[1]}
      state = model.apply(parameters, tokens, method='encode', **capacity)
      return jnp.full_like(tokens[:, :1], START), state

  _, after = jax.eval_shape(read, start.parameters, prompt, state)
  return {
    'prompt': (read, start.parameters, prompt, state),
    'token': (write, start.parameters, token, after),
  }


def shapes(training: Training):
  """The shapes of a member, and of a batch."""
  number = functools.partial(jax.ShapeDtypeStruct, ())
  state = jax.eval_shape(training.initialise, number(jnp.int32), number(jnp.float32))
  return state, jax.eval_shape(
    lambda: training.task.batch('train', 0, training.recipe.batch_size)
  )


def parts_of(training: Training, count: int):
  """The shapes of a batch as so many chips share it, [chips, ...]."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((count, x.shape[0] // count, *x.shape[1:]), x.dtype),
    shapes(training)[1],
  )


def operations(one: Experiment) -> dict[str, int]:
  """Of a training step, a prompt and a token, for a whole batch."""
  run = dataclasses.replace(one.run, dtype='float32')
  training, width = training_of(dataclasses.replace(one, run=run))
  with platform.assumed('gpu'):  # as a TPU, but that it has no kernel for attention in float32
    calls = {'train': (training.train_step, *shapes(training)), **calls_of(training, width)}
    return {name: work.flops(*call) for name, call in calls.items()}


def _status(programs: list[Program]) -> tuple[str, str]:
  """A cell's status, and the first reason why it is not whole."""
  for program in programs:
    if program.status != 'finished':
      return program.status, f'{program.part}, {program.name}: {program.reason}'
  return 'finished', ''
