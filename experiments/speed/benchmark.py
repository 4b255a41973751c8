"""Compilation, verification and timing of several implementations of the same computation.

  forward    computes the outputs
  gradient   computes the outputs and the gradient of all inputs
  steps      performs several steps of gradient descent in a loop, or training steps of a model

Results are compared before anything is timed. All implementations receive the same numbers, each in
its own memory layout. An implementation whose outputs or gradients differ from those of this
repository is reported as failed and is not timed. A library that is
not installed, or does not support the device, is left out. The record states both cases, and the
remaining implementations are still timed. The implementations run in interleaved rounds in one
process, together with products of large matrices that measure the machine's peak rate.

A CPU is split into one JAX device per core, as in training, because a matrix product inside a loop
uses a single core of a device. Every JAX implementation has its batch sharded over these devices.
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

from experiments.lab.cells.cell import OUT_OF_MEMORY, Cell, Outcome
from experiments.lab.measure import memory
from experiments.lab.measure.time import time_interleaved
from experiments.speed import OURS, peak

AXIS = 'device'
PREPARATION_SHARE = 0.5  # part of a cell's progress bar that preparation takes
# Largest relative error at which two arrays of outputs or gradients count as equal.
# An accelerator multiplies float32 numbers with lower precision than a CPU.
TOLERANCES = {'cpu': 2e-4}
ACCELERATOR_TOLERANCE = 3e-2
STEP_SIZE = 1e-3  # of gradient descent, large enough that the steps change the parameters


class Unavailable(Exception):
  """Error that states why an implementation cannot run on this machine."""


class Implementation(NamedTuple):
  """Functions of one implementation that are timed.

  The function `results` returns their outputs, which are verified before the timing.
  """

  calls: Mapping[str, Callable[[], Any]]  # by computation, 'forward', 'gradient' or 'steps'
  results: Callable[[], Any]  # a tree of arrays in this repository's layout
  memory_plan: memory.MemoryUse | None = None  # of the largest compiled program, if known


class Benchmark(NamedTuple):
  """Implementations of one computation, and the number of its floating-point operations."""

  # Maps implementation names to functions that compile them, with this repository's entry first.
  implementations: Mapping[str, Callable[[], Implementation]]
  # For each timed computation, the number of operations in this repository's matrix products.
  # The dict of FLOPs is empty if operations other than matrix products dominate the cost.
  matmul_flops: Mapping[str, float]


class Alternative(NamedTuple):
  """Another implementation of the same computation.

  Its functions `convert_arguments` and `convert_output` convert arrays to its memory layout.
  `batch_axes` holds the batch axis of each argument and, last, of the output. It is None for an
  argument without a batch axis. Both conversions are linear, so their transposes convert results
  back to this repository's layout. The transpose of `convert_arguments` converts the gradient, and
  that of `convert_output`, which only permutes entries, converts the output.
  """

  function: Callable  # input of `prepare`; for JAX, a function of the converted arguments
  convert_arguments: Callable = lambda *arguments: arguments  # returns a tuple
  convert_output: Callable = lambda output: output
  prepare: Callable | None = None  # makes an Implementation; None: compile_jax_implementation
  batch_axes: tuple = ()  # empty where the axes are those of this repository's function


def make_benchmark(
  our_function: Callable,
  arguments: tuple,
  batch_axes: tuple,
  alternative_implementations: Mapping[str, Alternative],
  matmul_flops: float | None = None,
  steps: int = 0,
) -> Benchmark:
  """Defines a benchmark that compares a JAX function of arrays with alternative implementations.

  Args:
    our_function: This repository's function, which returns one array.
    arguments: Trees of arrays, the arguments of `our_function`.
    batch_axes: Batch axes of the arguments and of the output, as in `Alternative`.
    alternative_implementations: Other implementations by name.
    matmul_flops: Operations of the matrix products of a forward pass, or None where these do not
      dominate the cost. The gradient takes twice as many.
    steps: Number of gradient descent steps that are timed as one loop. With 0, the forward pass
      is timed instead, alone and with the gradient.

  Returns:
    The benchmark, whose first implementation is `our_function`.

  """
  shape = jax.eval_shape(our_function, *arguments)
  cotangent = jax.random.normal(jax.random.key(shape.size), shape.shape, shape.dtype)
  if steps:
    cotangent /= shape.size**0.5  # Gradients that grew with the size would let the steps diverge.
  flops_by_computation = {}
  if matmul_flops is not None:
    flops_by_computation = (
      {'steps': 3 * matmul_flops * steps} if steps
      else {'forward': matmul_flops, 'gradient': 3 * matmul_flops})
  candidates = {OURS: Alternative(our_function)} | alternative_implementations
  return Benchmark(
    {
      name: functools.partial(
        _create_forward_and_gradient_calls,
        candidate._replace(batch_axes=candidate.batch_axes or batch_axes),
        arguments, cotangent, steps,
      )
      for name, candidate in candidates.items()
    },
    flops_by_computation,
  )


def _create_forward_and_gradient_calls(
  implementation: Alternative, arguments: tuple, output_cotangent: jax.Array,
  num_gradient_steps: int,
) -> Implementation:
  """Creates calls of an implementation, with results in the array layout of this repository."""
  converted, gradient_back = jax.vjp(jax.jit(implementation.convert_arguments), *arguments)
  converted_cotangent, output_back = jax.vjp(
    jax.jit(implementation.convert_output), output_cotangent)
  prepare = implementation.prepare or functools.partial(
    compile_jax_implementation, implementation.batch_axes)
  prepared = prepare(
    implementation.function, converted, converted_cotangent, num_gradient_steps)

  def output_and_gradient_in_common_layout():
    back = {'output': output_back, 'gradient': gradient_back}
    return {
      name: jax.jit(back[name])(value) for name, value in prepared.results().items()
    }

  return prepared._replace(results=output_and_gradient_in_common_layout)


def shard_function_over_batch(
  function: Callable, batch_axes: tuple, arguments: tuple, cotangent: jax.Array
) -> tuple[Callable, tuple, jax.Array]:
  """Shards a function and its arrays along the batch axis over several devices.

  The number of devices is the greatest common divisor of the batch size and the available devices.

  Args:
    function: Function of the arguments that returns one array.
    batch_axes: Batch axes of the arguments and of the output, as in `Alternative`.
    arguments: Trees of arrays.
    cotangent: Array with the shape of the output.

  Returns:
    The sharded function, the arguments, and the cotangent, each array on its devices.

  """
  specs = [
    PartitionSpec() if axis is None else PartitionSpec(*(None,) * axis, AXIS)
    for axis in batch_axes
  ]
  count = math.gcd(cotangent.shape[batch_axes[-1]], jax.device_count())
  mesh = Mesh(np.array(jax.devices()[:count]), (AXIS,))
  *shardings, output_sharding = (NamedSharding(mesh, spec) for spec in specs)
  function = jax.shard_map(
    function, mesh=mesh, in_specs=tuple(specs[:-1]), out_specs=specs[-1], check_vma=False
  )
  arguments = tuple(
    jax.device_put(argument, sharding)
    for argument, sharding in zip(arguments, shardings, strict=True)
  )
  return function, arguments, jax.device_put(cotangent, output_sharding)


def compile_jax_implementation(
  batch_axes: tuple, function: Callable, arguments: tuple, cotangent: jax.Array, steps: int
) -> Implementation:
  """Compiles a JAX function and its gradient.

  If `steps` is positive, a loop of gradient descent steps is compiled instead.

  Args:
    batch_axes: Batch axes of the arguments and of the output, as in `Alternative`.
    function: Function of the arguments that returns one array.
    arguments: Trees of arrays.
    cotangent: Array that is multiplied with the output to give the scalar whose gradient is taken.
    steps: Number of gradient descent steps, as in `make_benchmark`.

  Returns:
    The compiled calls, their results, and the memory that the gradient program plans.

  """
  function, arguments, cotangent = shard_function_over_batch(
    function, batch_axes, arguments, cotangent)

  def output_and_gradient(output_cotangent, arguments):
    output, back = jax.vjp(function, *arguments)
    return output, back(output_cotangent)

  def run_gradient_descent_on_arguments(output_cotangent, initial_arguments):
    def gradient_descent_step(arguments, _):
      _, gradient = output_and_gradient(output_cotangent, arguments)
      return jax.tree.map(lambda a, g: a - STEP_SIZE * g, arguments, gradient), None

    return jax.lax.scan(gradient_descent_step, initial_arguments, length=steps)[0]

  def compile_and_get_planned_memory(function, *arguments):
    program = jax.jit(function).lower(*arguments).compile()
    return functools.partial(program, *arguments), memory.program_memory(program)

  if steps:
    descend, plan = compile_and_get_planned_memory(
      run_gradient_descent_on_arguments, cotangent, arguments)
    return Implementation({'steps': descend}, lambda: {'gradient': descend()}, plan)
  forward, _ = compile_and_get_planned_memory(function, *arguments)
  gradient, plan = compile_and_get_planned_memory(output_and_gradient, cotangent, arguments)
  return Implementation(
    {'forward': forward, 'gradient': gradient},
    lambda: dict(zip(('output', 'gradient'), gradient(), strict=True)),
    plan,
  )


@dataclasses.dataclass
class ImplementationOutcome:
  """Measured durations of one implementation, or the reason why they were not measured."""

  name: str
  status: str = 'timeout'  # until the implementation has been timed
  reason: str = ''
  bytes: int | None = None  # temporary memory of the forward pass and the gradient
  seconds: dict[str, list[float]] = dataclasses.field(default_factory=dict)

  def set_status(self, status: str, reason: object) -> None:
    """Stores the status of the implementation, and the first line of the reason for the status."""
    self.status, self.reason = status, str(reason).partition('\n')[0]

  def set_status_from_error(self, error: Exception) -> bool:
    """Stores the status for an `Unavailable` or out-of-memory error.

    Returns whether the error is of one of these two kinds.
    """
    if isinstance(error, Unavailable):
      self.set_status('left out', error)
    elif isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
      self.set_status('out of memory', error)
    else:
      return False
    return True


def benchmark_runner(benchmarks: Mapping[str, Callable[..., Benchmark]], timeout: float):
  """Returns the function that executes a grid cell by running its benchmark."""
  return functools.partial(_run_benchmark_of_grid_cell, benchmarks, timeout)


def _run_benchmark_of_grid_cell(
  benchmarks, timeout: float, grid_cell: Cell, report_progress
) -> Outcome:
  end, run = time.monotonic() + timeout, grid_cell.run
  benchmark = benchmarks[run['benchmark']](seed=run['seed'], **run['sizes'])
  outcomes, calls = _compile_and_verify_implementations(
    benchmark, not run['timed'], report_progress)
  if run['timed']:
    matrix_products = peak.compile_matrix_products(run['peak'])
    calls |= {('peak', size): call for size, call in matrix_products.items()}
  times = time_interleaved(
    calls,
    run['rounds'],
    timeout=end - time.monotonic(),
    tolerate=lambda key, error: (
      key[0] in outcomes and outcomes[key[0]].set_status_from_error(error)),
    progress=lambda part: report_progress(
      PREPARATION_SHARE + (1 - PREPARATION_SHARE) * part, f'{part:.0%} of the timed rounds'),
  )
  for (name, computation), seconds in times.items():
    if seconds and name in outcomes:
      outcomes[name].seconds[computation] = seconds
  for outcome in outcomes.values():
    if outcome.status == 'timeout' and (outcome.seconds or not run['timed']):
      outcome.status = 'finished'
  result = {
    'platform': jax.default_backend(),
    'matmul_flops': dict(benchmark.matmul_flops),
    'implementations': [dataclasses.asdict(outcome) for outcome in outcomes.values()],
    'peak': [
      {'flops': peak.matrix_product_flops(size), 'seconds': seconds}
      for (name, size), seconds in times.items() if name == 'peak' and seconds
    ],
  }
  return Outcome(result, *_status_and_reason_of_first_failure(outcomes))


def _status_and_reason_of_first_failure(
  outcomes: Mapping[str, ImplementationOutcome]
) -> tuple[str, str]:
  """Returns the status and reason of the first implementation that failed or timed out.

  If all implementations were timed or left out, the status is 'finished' without a reason.
  """
  for outcome in outcomes.values():
    if outcome.status in ('failed', 'timeout'):
      return outcome.status, f'{outcome.name}: {outcome.reason or "no round was timed"}'
  return 'finished', ''


def _compile_and_verify_implementations(
  benchmark: Benchmark, compile_only: bool, report
) -> tuple[dict[str, ImplementationOutcome], dict]:
  """Compiles and verifies all implementations of a benchmark before they are timed.

  Returns the outcomes by name of the implementation, and the calls that are to be timed. With
  `compile_only` the implementations are neither verified nor timed.
  """
  outcomes, calls, expected = {}, {}, None
  for i, (name, prepare) in enumerate(benchmark.implementations.items()):
    report(PREPARATION_SHARE * i / len(benchmark.implementations), f'preparing {name}')
    outcome = outcomes[name] = ImplementationOutcome(name)
    try:
      implementation = prepare()
      if implementation.memory_plan:
        outcome.bytes = implementation.memory_plan.temporary
      if compile_only:
        continue
      memory.require_available_memory(implementation.memory_plan)
      results = implementation.results()
    except (Unavailable, MemoryError, jax.errors.JaxRuntimeError) as error:
      if name == OURS or not outcome.set_status_from_error(error):
        raise
      continue
    expected = results if expected is None else expected
    if difference := describe_result_mismatch(results, expected):
      outcome.set_status('failed', difference)
    else:
      calls |= {(name, computation): call for computation, call in implementation.calls.items()}
  return outcomes, calls


def describe_result_mismatch(
  results: Mapping[str, Any], expected_results: Mapping[str, Any]
) -> str:
  """Describes the first array that differs from the expected array, or returns an empty string."""
  tolerance = TOLERANCES.get(jax.default_backend(), ACCELERATOR_TOLERANCE)
  for name, expected_tree in expected_results.items():
    for (path, expected_leaf), leaf in zip(
      jax.tree.leaves_with_path(expected_tree), jax.tree.leaves(results[name]), strict=True
    ):
      error = _relative_error(
        np.asarray(leaf, np.float64), np.asarray(expected_leaf, np.float64))
      if not error <= tolerance:  # a NaN fails this comparison
        result_name = f'{name}{jax.tree_util.keystr(path)}'
        return f'its {result_name} differs from ours, with a relative error of {error:.1e}'
  return ''


def _relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
  """Returns the relative L2 error, or the absolute error if the expected array is zero."""
  norm = float(np.linalg.norm(expected))
  difference = float(np.linalg.norm(actual - expected))
  return difference / norm if norm else difference
