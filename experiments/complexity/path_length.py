"""Shortest paths from input positions to output positions, measured in operations.

A program is evaluated on path lengths instead of numbers. Every element of an array has, for every
position i of the input, the smallest number of operations on any path from i. The input itself has
path length 0 from its own position. The result of an operation has the smallest path length of its
operands plus one. A product of matrices or a reduction is one operation, and moving data is none.
The path length is infinite where an element does not depend on i.

Since path lengths belong to elements and not to complete arrays, they are exact. Elements that
do not depend on any position are known constants, and they can remove paths. There is no path
through attention scores that a mask excludes, through a product with 0, or through a score so low
that its softmax weight is 0.

A finite path length exists exactly where the Jacobian is not zero at generic parameters and inputs,
which is tested for every layer.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.extend import core

from experiments.complexity.dependence import (
  NO_PATH,
  Array,
  DependentArray,
  convert_to_numpy_if_constant,
  propagate_path_lengths_through_jaxpr_equation,
  stack_arrays,
)
from experiments.complexity.numpy_evaluation import evaluate_jaxpr_equation
from experiments.lab.measure.primitives import count_scan_operands, inner_jaxprs, primitive_kind


def shortest_path_lengths(
  function: Callable, x, input_positions: Sequence[int] | None = None
) -> np.ndarray:
  """The smallest number of operations between each input position and each output position.

  Args:
    function: a map from [1, S, ...] to [1, T, ...]. Its parameters should be generic, since a 0
      among them removes paths.
    x: the shape [1, S, ...] and dtype of the input.
    input_positions: the requested input positions, or None for all S positions.

  Returns:
    Path lengths [input positions, T], infinite without a path.

  Raises:
    ValueError: if the program contains an operation for which dependence is not supported.

  """
  length, other_axes = x.shape[1], (1,) * (len(x.shape) - 2)
  input_positions = range(length) if input_positions is None else input_positions
  # The last row of `masks` is True exactly at the positions that are not in `input_positions`.
  # Without the last row, inputs outside `input_positions` would be treated as constants.
  masks = np.array([*(np.arange(length) == i for i in input_positions),
                    ~np.isin(np.arange(length), input_positions)])
  start = np.where(masks, np.float32(0), NO_PATH).reshape(-1, 1, length, *other_axes)
  start = np.broadcast_to(start, (len(masks), *x.shape))
  program = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(x.shape, x.dtype))
  input_array = DependentArray(start, np.ones(x.shape, x.dtype))
  (y,) = propagate_path_lengths_through_jaxpr(program, [input_array])
  if not isinstance(y, DependentArray):
    return np.full((len(input_positions), y.shape[1]), NO_PATH)
  return y.path_lengths[:-1].min((1, *range(3, y.path_lengths.ndim)))


def propagate_path_lengths_through_jaxpr(
  program: core.ClosedJaxpr, arguments: Sequence[Array]
) -> list[Array]:
  """Evaluates a jaxpr, and attaches path lengths to the outputs that depend on the input."""
  jaxpr = program.jaxpr
  arrays = dict(zip(jaxpr.constvars, map(np.asarray, program.consts), strict=True))
  arrays |= zip(jaxpr.invars, arguments, strict=True)

  def look_up_array(variable_or_literal):
    if isinstance(variable_or_literal, core.Literal):
      return np.asarray(variable_or_literal.val, variable_or_literal.aval.dtype)
    return arrays[variable_or_literal]

  for jaxpr_equation in jaxpr.eqns:
    operands = [look_up_array(operand) for operand in jaxpr_equation.invars]
    if primitive_kind(jaxpr_equation) == 'control':
      propagate = CONTROL_FLOW.get(
        jaxpr_equation.primitive.name, _propagate_path_lengths_through_call)
      outputs = propagate(jaxpr_equation, operands)
    elif any(isinstance(operand, DependentArray) for operand in operands):
      outputs = propagate_path_lengths_through_jaxpr_equation(jaxpr_equation, operands)
    else:
      outputs = evaluate_jaxpr_equation(jaxpr_equation, operands)
    arrays |= zip(jaxpr_equation.outvars, map(convert_to_numpy_if_constant, outputs), strict=True)
  return [look_up_array(output) for output in jaxpr.outvars]


def _propagate_path_lengths_through_call(jaxpr_equation, operands: Sequence[Array]) -> list[Array]:
  return propagate_path_lengths_through_jaxpr(next(inner_jaxprs(jaxpr_equation)), operands)


def _propagate_path_lengths_through_scan(jaxpr_equation, operands: Sequence[Array]) -> list[Array]:
  """Computes the outputs of a scan and their path lengths by evaluating each iteration."""
  params = jaxpr_equation.params
  (body,), length = inner_jaxprs(jaxpr_equation), params['length']
  consts, carried, _ = count_scan_operands(jaxpr_equation)
  first = consts + carried
  carry, stacked = list(operands[consts:first]), []
  iterations = range(length)[::-1] if params['reverse'] else range(length)
  for i in iterations:
    slices = [convert_to_numpy_if_constant(x.subarray(i)) if isinstance(x, DependentArray) else x[i]
              for x in operands[first:]]
    outputs = propagate_path_lengths_through_jaxpr(body, [*operands[:consts], *carry, *slices])
    carry = outputs[: len(carry)]
    stacked.append(outputs[len(carry) :])
  if params['reverse']:
    stacked.reverse()
  return carry + [stack_arrays(parts) for parts in zip(*stacked, strict=True)]


def _propagate_path_lengths_through_cond(jaxpr_equation, operands: Sequence[Array]) -> list[Array]:
  index, *operands = operands
  if isinstance(index, DependentArray):
    raise ValueError('a cond whose branch depends on the input is not supported')
  return propagate_path_lengths_through_jaxpr(
    jaxpr_equation.params['branches'][int(index)], operands)


def _propagate_path_lengths_through_while_loop(
  jaxpr_equation, operands: Sequence[Array]
) -> list[Array]:
  params = jaxpr_equation.params
  condition_end = params['cond_nconsts']
  body_end = condition_end + params['body_nconsts']
  carry = list(operands[body_end:])
  while True:
    (goes_on,) = propagate_path_lengths_through_jaxpr(
      params['cond_jaxpr'], [*operands[:condition_end], *carry])
    if isinstance(goes_on, DependentArray):
      raise ValueError('a while loop whose condition depends on the input is not supported')
    if not goes_on:
      return carry
    body_operands = [*operands[condition_end:body_end], *carry]
    carry = propagate_path_lengths_through_jaxpr(params['body_jaxpr'], body_operands)


CONTROL_FLOW = {
  'scan': _propagate_path_lengths_through_scan, 'cond': _propagate_path_lengths_through_cond,
  'while': _propagate_path_lengths_through_while_loop,
}
