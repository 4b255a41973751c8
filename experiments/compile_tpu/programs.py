"""Ahead-of-time compilation of all programs of a model for a TPU topology.

  ensemble   advance: one model per chip (two on a single chip), each with its own batches
  shared     initialise, advance, evaluate: one model on all chips, with every batch sharded
  generate   prompt: all tokens but the last of sharded sequences are encoded into a state;
             token: the next token of each sequence is generated from that state

The training programs are those that `Ensemble` compiles for local devices, compiled for the chips
of a topology instead. Chips that share a batch sum their gradients. The other programs contain no
collective operation. A translator reads a corpus, so the host provides its batches. Its training
program (`StreamingEnsemble`) is a single step on a batch sharded over all chips, instead of a loop
that generates batches.

Operations are counted from the jaxpr for a full batch of one model, because they do not depend on
the sharding. The counts refer to the implementation forms that accelerators run. Attention is
counted in its form without Pallas kernels, because the operations of a kernel cannot be counted.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from experiments.compile_tpu import collectives, devices, topologies
from experiments.lab.cells import checks, spec
from experiments.lab.cells.cell import OUT_OF_MEMORY, Cell, Outcome
from experiments.lab.cells.experiment import Experiment, create_experiment
from experiments.lab.cells.run import Run, create_run_from_json
from experiments.lab.corpora.reserved import PAD, START
from experiments.lab.errors import BadInput
from experiments.lab.measure import memory, work
from experiments.lab.training.ensemble import AXIS, Ensemble
from experiments.lab.training.step import Training
from experiments.lab.training.streaming import StreamingEnsemble
from transformer import platform
from transformer.presets import TABLE_3

KERNEL = 'custom_call_target="tpu_custom_call"'  # the HLO of a compiled Pallas kernel
LEARNING_RATE = 1e-3


@dataclasses.dataclass
class ProgramResult:
  """Compilation status of one program, its planned memory, and its collective operations."""

  part: str
  name: str
  status: str = 'finished'
  reason: str = ''
  arguments: int | None = None  # bytes per chip
  temporary: int | None = None  # bytes per chip
  collectives: dict = dataclasses.field(default_factory=dict)  # kind -> count and bytes
  kernels: int | None = None  # number of Pallas kernels

  def with_compilation_error(self, error: Exception) -> 'ProgramResult':
    """Returns a copy of this result whose status and reason describe the given error."""
    status = 'out of memory' if OUT_OF_MEMORY.search(str(error)) else 'failed'
    reason = f'{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}'
    return dataclasses.replace(self, status=status, reason=reason)


@dataclasses.dataclass(frozen=True)
class Table3Experiment(Experiment):
  """Experiment whose model is a row of Table 3 of "Attention Is All You Need"."""

  @property
  def model(self) -> nn.Module:
    return self.layer.build_model(self.task.input_space.size, dtype=jnp.dtype(self.run.dtype))

  @property
  def model_width_and_parameter_counts(self) -> dict:
    """Returns only the width, because a published model is not fitted to a parameter budget."""
    return {'width': self.layer.width}


def experiment_of_run(run: Run) -> Experiment:
  """Creates an experiment with the layer of a run, or with a published Transformer.

  The published Transformers are the rows of Table 3 of Vaswani 2017, such as 'base'.
  """
  if run.layer in TABLE_3:
    return Table3Experiment(run, spec.parse_spec(run.task, 'task'), TABLE_3[run.layer])
  return create_experiment(run)


def check_compilable(experiment: Experiment, topology: str) -> None:
  """Raises a BadInput for an invalid run, or if the chip count does not divide the batch size."""
  if not isinstance(experiment, Table3Experiment):
    checks.check_experiment(experiment)
  count, batch_size = topologies.chip_count(topology), experiment.run.batch_size
  if batch_size % count:
    raise BadInput(
      f'--batch_size={batch_size} is not a multiple of the {count} chips of '
      f'{topology}, so the batch cannot be split equally'
    )


def compile_model_for_topology(grid_cell: Cell, report_progress) -> Outcome:
  """Compiles all programs of a model for a topology, and reports the fraction compiled so far."""
  values = dict(grid_cell.run)
  topology, parallel = values.pop('topology'), values.pop('parallel')
  experiment = experiment_of_run(create_run_from_json(values))
  memory_limit = topologies.chip_memory_in_bytes(topology)
  chips = devices.topology_devices(topology)
  result = {
    'chips': len(chips), 'memory': memory_limit, 'operations': count_operations(experiment),
  }
  programs = []
  with platform.override_platform('tpu'):
    training_setup, width = training_setup_and_model_width(experiment)
    lowered_programs = list(lower_programs(training_setup, width, chips, parallel))
    # Programs are compiled in sequence, because libtpu crashed in parallel threads.
    # Compiling the programs in parallel was not faster than compiling them in sequence.
    for program, lowered in lowered_programs:
      report_progress(len(programs) / len(lowered_programs), f'{program.part}: {program.name}')
      programs.append(compile_lowered_program(program, lowered, memory_limit))
  result['programs'] = [dataclasses.asdict(program) for program in programs]
  return Outcome(result, *_status_and_reason_of_first_compilation_failure(programs))


def training_setup_and_model_width(experiment: Experiment) -> tuple[Training, int]:
  """Returns the model, task and run of an experiment as a `Training`, and the model's width."""
  training_setup = Training(experiment.model, experiment.task, experiment.run)
  return training_setup, experiment.model_width_and_parameter_counts['width']


def lower_programs(
  training_setup: Training, width: int, chips: Sequence, parallel_mode: str
) -> Iterator[tuple[ProgramResult, jax.stages.Lowered | None]]:
  """Lowers every program of a model for the chips of a topology.

  Args:
    training_setup: Model, task and settings.
    width: Channels of the model.
    chips: Devices of the topology.
    parallel_mode: How the chips run in parallel, 'jit' or 'pmap'.

  Yields:
    The program's result, not compiled yet, and the lowered program. If lowering raised an error,
    the result records the error, and the lowered program is None.

  """
  members = [(seed, LEARNING_RATE) for seed in range(max(2, len(chips)))]
  if training_setup.task.model_kind == 'layer':
    ensemble, single = (
      Ensemble(training_setup, group, parallel_mode, chips) for group in (members, members[:1]))
    parts = [
      ('ensemble', 'advance', ensemble.lower_program),
      *(('shared', name, single.lower_program) for name in ('advance', 'evaluate', 'initialise')),
    ]
  else:
    streaming = StreamingEnsemble(training_setup, members[:1], parallel_mode, chips)
    batch = sharded_batch_shapes(training_setup, len(chips))
    lower_training = functools.partial(streaming.lower_program, batch=batch)
    parts = [('shared', name, lower_training) for name in ('step', 'initialise')]
  lower_generation = functools.partial(lower_generation_program, training_setup, width, chips)
  parts += [('generate', name, lower_generation) for name in ('prompt', 'token')]
  for part, name, lower in parts:
    program = ProgramResult(part, name)
    try:
      yield program, lower(name)
    except Exception as error:  # any error means that the program does not compile
      yield program.with_compilation_error(error), None


def compile_lowered_program(
  program: ProgramResult, lowered: jax.stages.Lowered | None, memory_limit: int
) -> ProgramResult:
  """Compiles a lowered program and checks that its planned memory fits on a chip.

  Args:
    program: Result of lowering.
    lowered: The lowered program, or None if lowering failed.
    memory_limit: Memory of a chip in bytes.

  Returns:
    The result with memory, collective operations and kernels, or with an error.

  """
  if lowered is None:
    return program
  try:
    compiled = lowered.compile()
  except Exception as error:
    return program.with_compilation_error(error)
  plan, text = memory.program_memory(compiled), compiled.as_text()
  program = dataclasses.replace(
    program, arguments=plan.arguments, temporary=plan.temporary,
    collectives=collectives.hlo_collectives(text), kernels=text.count(KERNEL),
  )
  needed = plan.arguments + plan.temporary + plan.results
  if needed > memory_limit:
    return program.with_compilation_error(MemoryError(
      f'out of memory: the program needs {needed} bytes per chip, but a chip has {memory_limit}'))
  return program


def lower_generation_program(
  training_setup: Training, width: int, chips: Sequence, program_name: str
) -> jax.stages.Lowered:
  """Lowers either the prompt-encoding or the token-generation program, with the batch sharded.

  Args:
    training_setup: Model, task and settings.
    width: Channels of the model.
    chips: Devices of the topology.
    program_name: 'prompt' or 'token'.

  Returns:
    The lowered program.

  """
  mesh = Mesh(np.array(chips), (AXIS,))

  def batch_partition_specs(tree):
    # The first axis of an array is the batch axis, and scalars are replicated on all chips.
    return jax.tree.map(lambda x: PartitionSpec(AXIS) if x.shape else PartitionSpec(), tree)

  functions = token_generation_functions_and_argument_shapes(training_setup, width)
  function, parameters, *inputs = functions[program_name]
  outputs = jax.eval_shape(function, parameters, *inputs)
  specs = jax.tree.map(lambda _: PartitionSpec(), parameters), *map(batch_partition_specs, inputs)
  sharded = jax.shard_map(
    function, mesh=mesh, in_specs=specs, out_specs=batch_partition_specs(outputs), check_vma=False)
  shapes = jax.tree.map(
    lambda x, spec: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec)),
    (parameters, *inputs), specs,
  )
  return jax.jit(sharded, donate_argnums=2).lower(*shapes)


def token_generation_functions_and_argument_shapes(
  training_setup: Training, width: int
) -> dict[str, tuple]:
  """Returns a prompt-encoding and a token-generation function, each with its argument shapes.

  The arguments are parameters, tokens [B, T] and a state. The results are a token [B, 1] and the
  next state.
  """
  task, model = training_setup.task, training_setup.model
  train_state, batch = state_and_batch_shapes(training_setup)
  size, length = batch.source.shape
  token = jax.ShapeDtypeStruct((size, 1), batch.source.dtype)

  def decode_most_likely_token(parameters, tokens, state, method=None):
    logits, state = model.apply(parameters, tokens, state, method=method)
    return jnp.argmax(logits[:, -1:], -1).astype(tokens.dtype), state

  if task.model_kind == 'layer':
    prompt = jax.ShapeDtypeStruct((size, length - 1), batch.source.dtype)
    state = jax.eval_shape(lambda: model.initial_state(size, length, width))
    encode_prompt = generate_token = decode_most_likely_token
  else:
    prompt, state = batch.source, ()
    generate_token = functools.partial(decode_most_likely_token, method='decode')

    def encode_prompt(parameters, tokens, state):
      capacity = {'mask': tokens != PAD, 'capacity': batch.target.shape[1]}
      state = model.apply(parameters, tokens, method='encode', **capacity)
      return jnp.full_like(tokens[:, :1], START), state

  _, prompt_state = jax.eval_shape(encode_prompt, train_state.parameters, prompt, state)
  return {
    'prompt': (encode_prompt, train_state.parameters, prompt, state),
    'token': (generate_token, train_state.parameters, token, prompt_state),
  }


def state_and_batch_shapes(training_setup: Training):
  """Returns the array shapes of the training state of one model and of a training batch."""
  number = functools.partial(jax.ShapeDtypeStruct, ())
  state = jax.eval_shape(training_setup.initialise, number(jnp.int32), number(jnp.float32))
  return state, jax.eval_shape(
    lambda: training_setup.task.batch('train', 0, training_setup.recipe.batch_size)
  )


def sharded_batch_shapes(training_setup: Training, chip_count: int):
  """Returns the array shapes [chips, B / chips, ...] of a batch that is split over chips."""
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct((chip_count, x.shape[0] // chip_count, *x.shape[1:]), x.dtype),
    state_and_batch_shapes(training_setup)[1],
  )


def count_operations(experiment: Experiment) -> dict[str, int]:
  """Counts the operations on one batch in training, prompt encoding and token generation."""
  run = dataclasses.replace(experiment.run, dtype='float32')
  training_setup, width = training_setup_and_model_width(dataclasses.replace(experiment, run=run))
  # The operations of a fused kernel cannot be counted, and attention on a TPU is a fused kernel.
  # Float32 attention on a GPU is not fused, and other layers use the same algorithms as on a TPU.
  with platform.override_platform('gpu'):
    calls = {
      'train': (training_setup.train_step, *state_and_batch_shapes(training_setup)),
      **token_generation_functions_and_argument_shapes(training_setup, width),
    }
    return {name: work.flops(*call) for name, call in calls.items()}


def _status_and_reason_of_first_compilation_failure(
  programs: list[ProgramResult]
) -> tuple[str, str]:
  """Returns the status and reason of the first program that fails to compile or exceeds memory.

  If all programs compile and fit, the status is 'finished' without a reason.
  """
  for program in programs:
    if program.status != 'finished':
      return program.status, f'{program.part}, {program.name}: {program.reason}'
  return 'finished', ''
