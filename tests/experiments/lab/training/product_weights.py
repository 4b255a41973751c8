"""Finds the parameters that multiply the input of a program, from its jaxpr and not by name.

A parameter is a weight if it is a factor of a product that is summed, without any operation on it
but movement and casts.

  matrix      an operand of a matrix product or a convolution
  filter      multiplied elementwise, with the products then summed, as in sum_n h_n c_n and
              sum_j w_j x_{t-j}
  embedding   rows are gathered at indices that the input gives, a product with a one-hot vector

A factor that depends on parameters alone, as in weight normalisation, leaves a parameter a weight.
Parameters that are added (biases), that scale without a sum (scales of norms, skips), and that pass
through a nonlinear function before they meet the input (rates of decay) are not weights.
"""

from typing import NamedTuple

import jax
from jax.extend import core

from experiments.lab.measure.primitives import FREE, KINDS, inner_jaxprs

CONSTANT, PARAMETER, INPUT = range(3)  # the most variable source that an array depends on
LINEAR = ('neg', 'select_n')  # the result is a parameter if the operand is one
EMPTY = frozenset()


class Value(NamedTuple):
  """Knowledge about an array, with parameters identified by their indices."""

  source: int = CONSTANT
  copies: frozenset = EMPTY  # parameters that the array equals, after movement, casts or scaling
  spread: frozenset = EMPTY  # the same parameters, repeated along an axis
  scaled: frozenset = EMPTY  # parameters that were multiplied elementwise by the input

  @property
  def repeated(self):
    """The same array repeated along another axis."""
    return self._replace(copies=EMPTY, spread=self.copies | self.spread)


def find_weights(function, parameters, *inputs) -> list[bool]:
  """Whether each leaf of the parameters is a weight of function(parameters, *inputs)."""
  program = jax.make_jaxpr(function)(parameters, *inputs)
  count, weights = len(jax.tree.leaves(parameters)), set()
  arguments = [Value(PARAMETER, frozenset([i])) for i in range(count)]
  arguments += [Value(INPUT)] * (len(program.jaxpr.invars) - count)
  propagate_program(program, arguments, weights)
  return [i in weights for i in range(count)]


def propagate_program(program, arguments, weights: set) -> list[Value]:
  """Returns the outputs of a closed jaxpr and adds the weights that it contains to `weights`."""
  known = dict(zip(program.jaxpr.invars, arguments, strict=True))

  def lookup(variables):
    return [Value() if isinstance(v, core.Literal) else known.get(v, Value()) for v in variables]

  for equation in program.jaxpr.eqns:
    values = propagate_through_equation(equation, lookup(equation.invars), weights)
    known.update(zip(equation.outvars, values, strict=True))
  return lookup(program.jaxpr.outvars)


def propagate_through_equation(equation, operands, weights: set) -> list[Value]:
  """Returns the outputs of an equation and adds the weights that it contains to `weights`."""
  name, source = equation.primitive.name, max((v.source for v in operands), default=CONSTANT)
  if (program := called_program(equation)) is not None:
    if name == 'scan':  # the carry comes to depend on the input
      operands = [value if value.source else Value(INPUT) for value in operands]
    count = len(program.jaxpr.invars)  # without the index that selects a branch
    return propagate_program(program, operands[len(operands) - count :], weights)
  result = Value(source)
  if operands and (KINDS.get(name) in FREE or name in LINEAR):
    result = propagate_movement(equation, operands, source, weights)
  elif name in ('mul', 'div'):
    result = propagate_multiplication(equation, operands, source)
  elif name in ('dot_general', 'conv_general_dilated'):
    left, right = operands
    weights |= left.copies ^ right.copies
    if source < INPUT:  # such as a matrix that is assembled from blocks
      result = Value(source, left.copies ^ right.copies)
  elif name in ('add', 'sub', 'add_any'):
    left, right = operands
    weights |= left.scaled & right.scaled
    if source < INPUT:  # such as the parts of a complex product of a parameter
      result = Value(source, left.copies & right.copies)
    if CONSTANT in (left.source, right.source):
      result = Value(source, scaled=left.scaled | right.scaled)
  elif name == 'reduce_sum':
    weights |= operands[0].scaled
  return [result] * len(equation.outvars)


def called_program(equation):
  """The jaxpr that an equation calls or loops over, or its first branch, or None."""
  for program in inner_jaxprs(equation):
    if len(program.jaxpr.outvars) == len(equation.outvars):
      return program
  return None


def propagate_movement(equation, operands, source, weights: set) -> Value:
  """The output of a movement, where rows gathered at indices from the input are weights."""
  if equation.primitive.name == 'gather' and operands[1].source == INPUT:
    weights |= operands[0].copies
    return Value(source)
  labels = zip(*(value[1:] for value in operands), strict=True)
  copies, spread, scaled = (frozenset().union(*sets) for sets in labels)
  value = Value(source, copies, spread, scaled)
  sizes = [variable.aval.size for variable in (equation.invars[0], equation.outvars[0])]
  if equation.primitive.name == 'broadcast_in_dim' and sizes[0] < sizes[1]:
    return value.repeated
  return value


def propagate_multiplication(equation, operands, source) -> Value:
  """The output of an elementwise product or quotient."""
  size = equation.outvars[0].aval.size
  left, right = (value if variable.aval.size == size else value.repeated
                 for variable, value in zip(equation.invars, operands, strict=True))
  if equation.primitive.name == 'div':
    right = right._replace(copies=EMPTY, spread=EMPTY)
  if source < INPUT:
    return Value(source, left.copies ^ right.copies)
  if left.source == right.source:
    return Value(source)
  return Value(source, scaled=left.copies | left.spread | right.copies | right.spread)
