"""How much a program computes, counted from its jaxpr: exact, and the same on every device.

  products      a product of matrices [.., m, k] and [.., k, n] is 2 m k n operations, a convolution
                2 for every weight that meets an input: what is multiplied and added
  elementwise   all other arithmetic: 1 for every element that is made, or that goes into a sum;
                a Fourier transform of n numbers is 5 n log2(n), as is the custom, and sorting
                them n log2(n) comparisons
  bytes         what all equations read and write, were each to fetch its operands and leave its
                result in memory: what a compiler that fuses nothing would move

The papers count products alone. The body of a scan counts as often as it runs, where a compiler's
own analysis counts it once; of branches the dearest counts.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.extend import core

from experiments.lab.measure.primitives import inner_jaxprs, kind_of, summands


class Work(NamedTuple):
  """Operations of two kinds, and bytes moved."""

  products: int = 0
  elementwise: int = 0
  bytes: int = 0

  def __add__(self, other: 'Work') -> 'Work':
    return Work(*(a + b for a, b in zip(self, other, strict=True)))

  def times(self, count: int) -> 'Work':
    """The same so many times."""
    return Work(*(count * part for part in self))


def of(function: Callable, *arguments) -> Work:
  """The work of a function; arguments may be shapes alone.

  Raises a ValueError for a loop whose number of turns is not known before it runs, and for a
  primitive that is not known, by its name.
  """
  return of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr)


def flops(function: Callable, *arguments) -> int:
  """Operations in products of matrices and convolutions, alone."""
  return of(function, *arguments).products


def of_jaxpr(jaxpr: core.Jaxpr) -> Work:
  """The work of a jaxpr, that of its inner ones included."""
  return sum(map(of_equation, jaxpr.eqns), Work())


def of_equation(equation) -> Work:
  """The work of one equation."""
  kind = kind_of(equation)
  if kind == 'control':
    return of_control(equation)
  moved = sum(_bytes(v) for v in (*equation.invars, *equation.outvars))
  read, made = (sum(v.aval.size for v in side) for side in (equation.invars, equation.outvars))
  match kind:
    case 'product':
      return Work(products=2 * summands(equation) * made, bytes=moved)
    case 'elementwise':
      return Work(elementwise=made, bytes=moved)
    case 'reduction' | 'cumulative':
      return Work(elementwise=read, bytes=moved)
    case 'scatter':
      return Work(elementwise=equation.invars[2].aval.size, bytes=moved)
    case 'sorting':
      size = equation.invars[0].aval.size
      return Work(elementwise=size * math.ceil(math.log2(max(summands(equation), 1))), bytes=moved)
    case 'transform':
      length = summands(equation)
      transforms = max(read, made) // length
      return Work(elementwise=round(5 * length * math.log2(length) * transforms), bytes=moved)
  return Work(bytes=moved)


def of_control(equation) -> Work:
  """The work of what an equation runs, as often as it does."""
  name = equation.primitive.name
  if name == 'while':
    raise ValueError('a while loop runs as often as its data say: its work cannot be counted')
  inner = [of_jaxpr(one.jaxpr) for one in inner_jaxprs(equation)]
  if name == 'cond':
    return max(inner)
  total = sum(inner, Work())
  return total.times(equation.params['length']) if name == 'scan' else total


def _bytes(variable) -> int:
  aval = variable.aval
  return aval.size * getattr(aval.dtype, 'itemsize', 4)
