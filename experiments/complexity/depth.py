"""Depth of a program, which is the length of its longest chain of dependent operations.

On any number of processors, an operation waits for its operands. Here an operation is one equation
on complete arrays, and moving data is no operation. A sum is counted by one of two conventions.

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
  primitive_kind,
  terms_per_output_element,
)

NO_CHAIN = -np.inf


def longest_chain_length(
  function: Callable, *arguments, logarithmic_reductions: bool = False
) -> int:
  """The length of the longest chain of dependent operations in a function.

  A chain leads from any input or constant to any output.

  A while loop with an unknown number of iterations raises a ValueError, and an unknown primitive
  raises UnknownPrimitive.

  Args:
    function: the function.
    *arguments: the arguments of the function, or their shapes.
    logarithmic_reductions: whether a sum counts as a tree of additions and not as one operation.

  Returns:
    The number of operations on the longest chain.

  """
  program = jax.make_jaxpr(function)(*arguments).jaxpr
  return longest_chain_length_of_jaxpr(program, logarithmic_reductions)


def longest_chain_length_of_jaxpr(jaxpr: core.Jaxpr, logarithmic_reductions: bool = False) -> int:
  """The length of the longest chain of dependent operations in a jaxpr."""
  return int(max(_longest_chain_matrix(jaxpr, logarithmic_reductions).max(initial=0), 0))


def _equation_depth(equation, logarithmic_reductions: bool) -> int:
  """The number of sequential operations of one equation of a jaxpr."""
  kind = primitive_kind(equation)
  if kind in FREE:
    return 0
  levels = math.ceil(math.log2(max(terms_per_output_element(equation), 1)))
  if not logarithmic_reductions or kind in ('elementwise', 'scatter'):
    return 1
  if kind == 'transform':
    return 2 * levels  # a product and an addition per level
  if kind == 'sorting':
    return levels * (levels + 1) // 2  # a bitonic network (Batcher 1968)
  return levels + (kind == 'product')


def _longest_chain_matrix(jaxpr: core.Jaxpr, logarithmic_reductions: bool) -> np.ndarray:
  """The lengths [outputs, inputs + 1] of the longest chains from each input to each output.

  The last column holds the chains that start at constants.
  """
  inputs = [*jaxpr.invars]
  identity = _max_plus_identity(len(inputs) + 1)
  constant = identity[-1]
  chains = dict(zip(inputs, identity, strict=False)) | dict.fromkeys(jaxpr.constvars, constant)

  def longest_chains_to_value(atom):
    return constant if isinstance(atom, core.Literal) else chains[atom]

  for equation in jaxpr.eqns:
    operands = np.array([longest_chains_to_value(atom) for atom in equation.invars] + [constant])
    if primitive_kind(equation) == 'control':
      inner = _longest_chains_through_control_flow(equation, logarithmic_reductions)
      chains |= zip(equation.outvars, max_plus_product(inner, operands), strict=True)
    else:
      longest = operands.max(0) + _equation_depth(equation, logarithmic_reductions)
      chains |= dict.fromkeys(equation.outvars, longest)
  to_outputs = [longest_chains_to_value(atom) for atom in jaxpr.outvars]
  return np.array(to_outputs).reshape(-1, len(identity))


def _longest_chains_through_control_flow(equation, logarithmic_reductions: bool) -> np.ndarray:
  """Lengths [outputs, operands + 1] of the longest chains through a loop, branch or call.

  The last column holds the chains that start at constants.
  """
  name, params = equation.primitive.name, equation.params
  if name == 'while':
    raise ValueError(
      'the depth of a while loop cannot be counted, because its iterations depend on data')
  inner = [
    _longest_chain_matrix(body.jaxpr, logarithmic_reductions) for body in inner_jaxprs(equation)]
  if name == 'scan':
    return _longest_chains_through_scan(inner[0], count_scan_operands(equation), params['length'])
  if name == 'cond':  # a branch starts after its index has been computed
    branch = np.max(inner, 0)
    return np.concatenate([branch.max(1, keepdims=True), branch], 1)
  return inner[0]


def _longest_chains_through_scan(
  body: np.ndarray, operands: LoopOperands, length: int
) -> np.ndarray:
  """Lengths [outputs, operands + 1] of the longest chains through all iterations of a scan.

  The carried outputs precede the stacked outputs. The last column holds chains from constants.
  """
  consts, carry, _ = operands
  iteration = _max_plus_identity(body.shape[1])  # operands that are not carried do not change
  iteration[consts : consts + carry] = body[:carry]
  last_carry = max_plus_power(iteration, length)[consts : consts + carry]
  # The identity matrix allows chains that pass through fewer than length - 1 iterations.
  any_iteration = np.maximum(iteration, _max_plus_identity(len(iteration)))
  earlier = max_plus_power(any_iteration, length - 1)
  return np.concatenate([last_carry, max_plus_product(body[carry:], earlier)])


def _max_plus_identity(size: int) -> np.ndarray:
  return np.where(np.eye(size, dtype=bool), 0.0, NO_CHAIN)


def max_plus_product(outer: np.ndarray, inner: np.ndarray) -> np.ndarray:
  """The product of matrices [a, b] and [b, c] over the max-plus semiring."""
  return np.max(outer[:, :, None] + inner[None], 1, initial=NO_CHAIN)


def max_plus_power(matrix: np.ndarray, exponent: int) -> np.ndarray:
  """A power of a square matrix over the max-plus semiring."""
  result = _max_plus_identity(len(matrix))
  while exponent > 0:
    if exponent % 2:
      result = max_plus_product(matrix, result)
    matrix, exponent = max_plus_product(matrix, matrix), exponent // 2
  return result
