"""Depth of a program, which is the length of its longest chain of dependent operations.

On any number of processors, an operation waits for its operands. Here an operation is a primitive
of a jaxpr that is applied to complete arrays, and moving data is no operation. A sum is counted by
one of two conventions.

  unit           a product of matrices or a sum is one operation (Vaswani et al. 2017, Table 1)
  logarithmic    a sum of n numbers is log2(n) additions in a tree (the PRAM model)

The depths d of outputs are a linear function of the depths of inputs over the max-plus semiring,
d_out = max_j (w_j + d_j). A program is therefore a matrix, a composition of functions is a matrix
product, and a scan of n iterations is a matrix power, which takes log2(n) products and is exact for
any length. Operations in a scan run in parallel if no later iteration depends on them.
"""

import math
from collections.abc import Callable

import jax
import numpy as np
from jax.extend import core

from experiments.lab.measure.primitives import (
  FREE,
  LoopOperands,
  count_scan_operands,
  inner_jaxprs,
  num_elements_combined_per_output_element,
  primitive_kind,
)

NO_CHAIN = -np.inf


def longest_operation_chain_length(
  function: Callable, *arguments, reductions_have_log_depth: bool = False
) -> int:
  """The length of the longest chain of dependent operations in a function.

  A chain leads from any input or constant to any output.

  A while loop with an unknown number of iterations raises a ValueError, and an unknown primitive
  raises UnknownPrimitive.

  Args:
    function: the function.
    *arguments: the arguments of the function, or their shapes.
    reductions_have_log_depth: whether a sum counts as a tree of additions and not as one operation.

  Returns:
    The number of operations on the longest chain.

  """
  program = jax.make_jaxpr(function)(*arguments).jaxpr
  return longest_operation_chain_length_of_jaxpr(program, reductions_have_log_depth)


def longest_operation_chain_length_of_jaxpr(
  jaxpr: core.Jaxpr, reductions_have_log_depth: bool = False
) -> int:
  """The length of the longest chain of dependent operations in a jaxpr."""
  lengths = _longest_path_lengths_from_inputs_to_outputs(jaxpr, reductions_have_log_depth)
  return int(max(lengths.max(initial=0), 0))


def _jaxpr_equation_depth(jaxpr_equation, reductions_have_log_depth: bool) -> int:
  """The depth of one jaxpr equation, as a number of sequential operations."""
  kind = primitive_kind(jaxpr_equation)
  if kind in FREE:
    return 0
  levels = math.ceil(math.log2(max(num_elements_combined_per_output_element(jaxpr_equation), 1)))
  if not reductions_have_log_depth or kind in ('elementwise', 'scatter'):
    return 1
  if kind == 'transform':
    return 2 * levels  # a product and an addition per level
  if kind == 'sorting':
    return levels * (levels + 1) // 2  # a bitonic network (Batcher 1968)
  return levels + (kind == 'product')


def _longest_path_lengths_from_inputs_to_outputs(
  jaxpr: core.Jaxpr, reductions_have_log_depth: bool
) -> np.ndarray:
  """Lengths of the longest chains of dependent operations from each input to each output.

  The result has the shape [outputs, inputs + 1]. The last column holds the chains that start at
  constants.
  """
  inputs = [*jaxpr.invars]
  identity = _max_plus_identity(len(inputs) + 1)
  constant = identity[-1]
  chains = dict(zip(inputs, identity, strict=False)) | dict.fromkeys(jaxpr.constvars, constant)

  def longest_path_length_from_each_input(variable_or_literal):
    if isinstance(variable_or_literal, core.Literal):
      return constant
    return chains[variable_or_literal]

  for jaxpr_equation in jaxpr.eqns:
    operands = np.array(
      [*map(longest_path_length_from_each_input, jaxpr_equation.invars), constant])
    if primitive_kind(jaxpr_equation) == 'control':
      inner = _longest_path_lengths_through_control_flow(jaxpr_equation, reductions_have_log_depth)
      chains |= zip(jaxpr_equation.outvars, max_plus_product(inner, operands), strict=True)
    else:
      longest = operands.max(0) + _jaxpr_equation_depth(jaxpr_equation, reductions_have_log_depth)
      chains |= dict.fromkeys(jaxpr_equation.outvars, longest)
  to_outputs = [longest_path_length_from_each_input(output) for output in jaxpr.outvars]
  return np.array(to_outputs).reshape(-1, len(identity))


def _longest_path_lengths_through_control_flow(
  jaxpr_equation, reductions_have_log_depth: bool
) -> np.ndarray:
  """Lengths of the longest chains of dependent operations through a loop, a branch or a call.

  The result has the shape [outputs, operands + 1]. The last column holds the chains that start at
  constants.
  """
  name, params = jaxpr_equation.primitive.name, jaxpr_equation.params
  if name == 'while':
    raise ValueError(
      'the depth of a while loop cannot be counted, because its iterations depend on data')
  inner = [
    _longest_path_lengths_from_inputs_to_outputs(body.jaxpr, reductions_have_log_depth)
    for body in inner_jaxprs(jaxpr_equation)]
  if name == 'scan':
    return _longest_path_lengths_through_scan(
      inner[0], count_scan_operands(jaxpr_equation), params['length'])
  if name == 'cond':  # a branch starts after its index has been computed
    branch = np.max(inner, 0)
    return np.concatenate([branch.max(1, keepdims=True), branch], 1)
  return inner[0]


def _longest_path_lengths_through_scan(
  body_path_lengths: np.ndarray, operands: LoopOperands, num_iterations: int
) -> np.ndarray:
  """Lengths of the longest chains of dependent operations through all iterations of a scan.

  The result has the shape [outputs, operands + 1]. The carried outputs precede the stacked outputs.
  The last column holds the chains that start at constants.
  """
  consts, carry, _ = operands
  iteration = _max_plus_identity(body_path_lengths.shape[1])  # only carried operands change
  iteration[consts : consts + carry] = body_path_lengths[:carry]
  last_carry = max_plus_power(iteration, num_iterations)[consts : consts + carry]
  # An identity matrix represents a loop iteration that adds no operation to a dependency path.
  # The elementwise maximum of `iteration` and the identity includes paths that skip the iteration.
  any_iteration = np.maximum(iteration, _max_plus_identity(len(iteration)))
  earlier = max_plus_power(any_iteration, num_iterations - 1)
  return np.concatenate([last_carry, max_plus_product(body_path_lengths[carry:], earlier)])


def _max_plus_identity(size: int) -> np.ndarray:
  return np.where(np.eye(size, dtype=bool), 0.0, NO_CHAIN)


def max_plus_product(left: np.ndarray, right: np.ndarray) -> np.ndarray:
  """The product of matrices [a, b] and [b, c] over the max-plus semiring."""
  return np.max(left[:, :, None] + right[None], 1, initial=NO_CHAIN)


def max_plus_power(matrix: np.ndarray, exponent: int) -> np.ndarray:
  """A power of a square matrix over the max-plus semiring."""
  result = _max_plus_identity(len(matrix))
  while exponent > 0:
    if exponent % 2:
      result = max_plus_product(matrix, result)
    matrix, exponent = max_plus_product(matrix, matrix), exponent // 2
  return result
