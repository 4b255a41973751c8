"""Which parameters multiply what a program reads: found in its jaxpr, whatever their names are.

A parameter is a weight if, moved or recast at most, it is a factor of a product that is summed:

  matrix      an operand of a product of matrices or a convolution
  filter      multiplied by elements, and the products then added: sum_n h_n c_n, sum_j w_j x_{t-j}
  embedding   rows are looked up at places that the input says, which is a product with a one-hot

A factor that comes from parameters alone, as in weight normalisation, leaves a parameter a weight.
No weights are what is added (a bias), what scales and is not summed over (a norm's scale, a skip),
and what goes through a nonlinear function before it meets the input (the rate of a decay).
"""

from typing import NamedTuple

import jax
from jax.extend import core

from experiments.lab.measure.primitives import FREE, KINDS, inner_jaxprs

CONSTANT, PARAMETER, INPUT = range(3)  # what a value depends on at most
KEPT = ('neg', 'select_n')  # what these make of a parameter is one still, as moves do
NOTHING = frozenset()


class Value(NamedTuple):
  """What is known of an array; parameters are numbers."""

  source: int = CONSTANT
  copies: frozenset = NOTHING  # parameters that it is, moved, recast or normalised
  spread: frozenset = NOTHING  # the same, repeated along an axis
  scaled: frozenset = NOTHING  # parameters that were multiplied by what is read, by elements

  @property
  def repeated(self):
    """The same along another axis again."""
    return self._replace(copies=NOTHING, spread=self.copies | self.spread)


def weights(function, parameters, *inputs) -> list[bool]:
  """For each leaf of the parameters whether it is a weight of function(parameters, *inputs)."""
  program = jax.make_jaxpr(function)(parameters, *inputs)
  count, weights = len(jax.tree.leaves(parameters)), set()
  given = [Value(PARAMETER, frozenset([i])) for i in range(count)]
  given += [Value(INPUT)] * (len(program.jaxpr.invars) - count)
  follow(program, given, weights)
  return [i in weights for i in range(count)]


def follow(program, given, weights: set) -> list[Value]:
  """The outputs of a closed jaxpr for these values; adds the weights that it meets to `weights`."""
  known = dict(zip(program.jaxpr.invars, given, strict=True))

  def read(variables):
    return [Value() if isinstance(v, core.Literal) else known.get(v, Value()) for v in variables]

  for equation in program.jaxpr.eqns:
    values = made(equation, read(equation.invars), weights)
    known.update(zip(equation.outvars, values, strict=True))
  return read(program.jaxpr.outvars)


def made(equation, operands, weights: set) -> list[Value]:
  """What an equation makes of its operands."""
  name, source = equation.primitive.name, max((v.source for v in operands), default=CONSTANT)
  if (program := called(equation)) is not None:
    if name == 'scan':  # what is carried comes to depend on what is read
      operands = [value if value.source else Value(INPUT) for value in operands]
    count = len(program.jaxpr.invars)  # a branch does not get the number that chooses it
    return follow(program, operands[len(operands) - count :], weights)
  result = Value(source)
  if operands and (KINDS.get(name) in FREE or name in KEPT):
    result = moved(equation, operands, source, weights)
  elif name in ('mul', 'div'):
    result = multiplied(equation, operands, source)
  elif name in ('dot_general', 'conv_general_dilated'):
    left, right = operands
    weights |= left.copies ^ right.copies
    if source < INPUT:  # such as a matrix that is put together of its blocks
      result = Value(source, left.copies ^ right.copies)
  elif name in ('add', 'sub', 'add_any'):
    left, right = operands
    weights |= left.scaled & right.scaled
    if CONSTANT in (left.source, right.source):
      result = Value(source, scaled=left.scaled | right.scaled)
  elif name == 'reduce_sum':
    weights |= operands[0].scaled
  return [result] * len(equation.outvars)


def called(equation):
  """The program that an equation calls, once or in a loop, or its first branch; None: none."""
  for program in inner_jaxprs(equation):
    if len(program.jaxpr.outvars) == len(equation.outvars):
      return program
  return None


def moved(equation, operands, source, weights: set) -> Value:
  """The same elsewhere; where the input says which rows come, they are looked up."""
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


def multiplied(equation, operands, source) -> Value:
  """A product or quotient by elements: of parameters alone, or with what is read."""
  size = equation.outvars[0].aval.size
  left, right = (value if variable.aval.size == size else value.repeated
                 for variable, value in zip(equation.invars, operands, strict=True))
  if equation.primitive.name == 'div':
    right = right._replace(copies=NOTHING, spread=NOTHING)
  if source < INPUT:
    return Value(source, left.copies ^ right.copies)
  if left.source == right.source:
    return Value(source)
  return Value(source, scaled=left.copies | left.spread | right.copies | right.spread)
