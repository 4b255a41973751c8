"""Operations and memory traffic of a program, counted exactly from its jaxpr on any device.

  products      a product of matrices [.., m, k] and [.., k, n] is 2 m k n operations, and a
                convolution is 2 for every product of a weight and an input
  elementwise   all other arithmetic is 1 operation for every element of the result, or of the
                operand of a sum; by convention, a Fourier transform of n numbers is 5 n log2(n)
                operations and sorting them is n log2(n) comparisons
  bytes         the operands and results of all equations, as if each equation read its operands
                from memory and wrote its results to it, without any fusion

Papers usually count products alone. Here the body of a scan counts once per iteration, whereas the
cost analysis of the compiler counts the body once. Of several branches, only the most expensive
branch counts.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.extend import core

from experiments.lab.measure.primitives import (
  inner_jaxprs,
  num_elements_combined_per_output_element,
  primitive_kind,
)


class Work(NamedTuple):
  """Counts of a program's matrix product operations, elementwise operations and bytes moved."""

  products: int = 0
  elementwise: int = 0
  bytes: int = 0

  def __add__(self, other: 'Work') -> 'Work':
    return Work(*(a + b for a, b in zip(self, other, strict=True)))

  def total_work(self, num_executions: int) -> 'Work':
    """The operations and the memory traffic of several executions of the program."""
    return Work(*(num_executions * number for number in self))


def count_operations_and_bytes(function: Callable, *arguments) -> Work:
  """Counts the operations and the memory traffic of a function, given arrays or shapes.

  A while loop with an unknown number of iterations raises a ValueError, and an unknown primitive
  raises UnknownPrimitive.
  """
  return count_operations_and_bytes_of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def flops(function: Callable, *arguments) -> int:
  """The number of operations in the matrix products and convolutions of a function."""
  return count_operations_and_bytes(function, *arguments).products


def count_operations_and_bytes_of_jaxpr(jaxpr: core.Jaxpr) -> Work:
  """Counts the operations and the memory traffic of a jaxpr, including its inner jaxprs."""
  return sum(map(_count_operations_and_bytes_of_jaxpr_equation, jaxpr.eqns), Work())


def _count_operations_and_bytes_of_jaxpr_equation(jaxpr_equation) -> Work:
  kind = primitive_kind(jaxpr_equation)
  if kind == 'control':
    return _count_operations_and_bytes_of_control_flow(jaxpr_equation)
  traffic = sum(_num_bytes(v) for v in (*jaxpr_equation.invars, *jaxpr_equation.outvars))
  inputs, outputs = (sum(v.aval.size for v in variables)
                     for variables in (jaxpr_equation.invars, jaxpr_equation.outvars))
  match kind:
    case 'product':
      products = 2 * num_elements_combined_per_output_element(jaxpr_equation) * outputs
      return Work(products=products, bytes=traffic)
    case 'elementwise':
      return Work(elementwise=outputs, bytes=traffic)
    case 'reduction' | 'cumulative':
      return Work(elementwise=inputs, bytes=traffic)
    case 'scatter':
      return Work(elementwise=jaxpr_equation.invars[2].aval.size, bytes=traffic)
    case 'sorting':
      length = num_elements_combined_per_output_element(jaxpr_equation)
      comparisons = math.ceil(math.log2(max(length, 1)))
      return Work(elementwise=jaxpr_equation.invars[0].aval.size * comparisons, bytes=traffic)
    case 'transform':
      length = num_elements_combined_per_output_element(jaxpr_equation)
      transforms = max(inputs, outputs) // length
      return Work(elementwise=round(5 * length * math.log2(length) * transforms), bytes=traffic)
  return Work(bytes=traffic)


def _count_operations_and_bytes_of_control_flow(jaxpr_equation) -> Work:
  """Counts the operations and the memory traffic of a loop, branch or call.

  The body of a scan counts once per iteration.
  """
  name = jaxpr_equation.primitive.name
  if name == 'while':
    raise ValueError(
      'the work of a while loop cannot be counted, because its iterations depend on data')
  inner = [count_operations_and_bytes_of_jaxpr(body.jaxpr) for body in inner_jaxprs(jaxpr_equation)]
  if name == 'cond':
    return max(inner)
  work = sum(inner, Work())
  return work.total_work(jaxpr_equation.params['length']) if name == 'scan' else work


def _num_bytes(variable) -> int:
  aval = variable.aval
  return aval.size * getattr(aval.dtype, 'itemsize', 4)
