"""How much a program computes, counted from its jaxpr: exact, and the same on every device.

A product of matrices [.., m, k] and [.., k, n] is 2 m k n operations, a convolution 2 for every
weight that meets an input: what is multiplied and added. All else is not counted, as in the papers.
The body of a scan counts as often as it runs, where a compiler's own analysis counts it once.
"""

import math
from collections.abc import Callable

import jax
from jax.extend import core


def flops(function: Callable, *arguments) -> int:
  """Operations in products of matrices and convolutions; arguments may be shapes alone.

  Raises a ValueError for a loop whose number of turns is not known before it runs.
  """
  return count(jax.make_jaxpr(function)(*arguments).jaxpr)


def count(jaxpr: core.Jaxpr) -> int:
  """The operations of a jaxpr, those of its inner ones among them."""
  return sum(of_equation(equation) for equation in jaxpr.eqns)


def of_equation(equation) -> int:
  """The operations of one equation."""
  name, parameters = equation.primitive.name, equation.params
  if name == 'dot_general':
    return of_product(equation)
  if name == 'conv_general_dilated':
    return of_convolution(equation)
  inner = [count(one) for one in inner_jaxprs(parameters)]
  if name == 'scan':
    return parameters['length'] * sum(inner)
  if name == 'cond':
    return max(inner)
  if name == 'while' and any(inner):
    raise ValueError('a while loop runs as often as its data say: its work cannot be counted')
  return sum(inner)


def of_product(equation) -> int:
  """2 m k n, for every entry of the batch."""
  left = equation.invars[0].aval.shape
  (contracted, _), _ = equation.params['dimension_numbers']
  summed = math.prod(left[axis] for axis in contracted)
  return 2 * summed * math.prod(equation.outvars[0].aval.shape)


def of_convolution(equation) -> int:
  """2 for every weight that an output is a sum over."""
  kernel = equation.invars[1].aval.shape
  features = kernel[equation.params['dimension_numbers'].rhs_spec[0]]
  return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) // features


def inner_jaxprs(parameters: dict):
  """The jaxprs among an equation's parameters: bodies of loops, branches, called functions."""
  for value in parameters.values():
    for one in value if isinstance(value, tuple | list) else (value,):
      if isinstance(one, core.ClosedJaxpr):
        yield one.jaxpr
      elif isinstance(one, core.Jaxpr):
        yield one
