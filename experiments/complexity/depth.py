"""How many operations must follow one another: the longest chain of a program's dependences.

However many processors there are, an operation waits for its operands. An operation is one equation
on whole arrays, moving data is none, and a sum is counted in either of two ways:

  unit           a product of matrices or a sum is one operation (Vaswani et al. 2017, Table 1)
  logarithmic    a sum of n numbers is log2(n) additions in a tree (the PRAM of theory)

A depth d of outputs by depths of inputs is linear where max is the sum and + the product:
d_out = max_j (w_j + d_j). So a program is a matrix, one function after another a product of two,
and a scan of n turns a power, found in log2(n) products: exact for any length. What the turns of a
scan do not hand on to one another, they do at the same time.
"""

import math
from collections.abc import Callable

import jax
import numpy as np
from jax.extend import core

from experiments.lab.measure.primitives import (
  FREE,
  LoopOperands,
  inner_jaxprs,
  kind_of,
  scan_operands,
  summands,
)

NEVER = -np.inf  # no chain at all


def of(function: Callable, *arguments, logarithmic: bool = False) -> int:
  """Operations on the longest chain from any input, or constant, to any output.

  Raises a ValueError for a loop whose number of turns is not known before it runs, and for a
  primitive that is not known, by its name.
  """
  return of_jaxpr(jax.make_jaxpr(function)(*arguments).jaxpr, logarithmic)


def of_jaxpr(jaxpr: core.Jaxpr, logarithmic: bool = False) -> int:
  """The same of a program that has been traced."""
  return int(max(_chains(jaxpr, logarithmic).max(initial=0), 0))


def cost(equation, logarithmic: bool) -> int:
  """Operations that follow one another in one equation."""
  kind = kind_of(equation)
  if kind in FREE:
    return 0
  levels = math.ceil(math.log2(max(summands(equation), 1)))
  if not logarithmic or kind in ('elementwise', 'scatter'):
    return 1
  if kind == 'transform':
    return 2 * levels  # a product and an addition a level
  if kind == 'sorting':
    return levels * (levels + 1) // 2  # a bitonic network (Batcher 1968)
  return levels + (kind == 'product')


def _chains(jaxpr: core.Jaxpr, logarithmic: bool) -> np.ndarray:
  """The longest chain to each output [outputs, inputs + 1]; the last column: from constants."""
  inputs = [*jaxpr.invars]
  unit = np.where(np.eye(len(inputs) + 1, dtype=bool), 0.0, NEVER)
  constant = unit[-1]
  known = dict(zip(inputs, unit, strict=False)) | dict.fromkeys(jaxpr.constvars, constant)

  def read(atom):
    return constant if isinstance(atom, core.Literal) else known[atom]

  for equation in jaxpr.eqns:
    operands = np.array([read(atom) for atom in equation.invars] + [constant])
    if kind_of(equation) == 'control':
      through = _control(equation, logarithmic)
      known |= zip(equation.outvars, follow(through, operands), strict=True)
    else:
      latest = operands.max(0) + cost(equation, logarithmic)
      known |= dict.fromkeys(equation.outvars, latest)
  return np.array([read(atom) for atom in jaxpr.outvars]).reshape(-1, len(unit))


def _control(equation, logarithmic: bool) -> np.ndarray:
  """Chains [outputs, operands + 1] through what an equation runs."""
  name, params = equation.primitive.name, equation.params
  if name == 'while':
    raise ValueError('a while loop runs as often as its data say: its depth cannot be counted')
  inner = [_chains(one.jaxpr, logarithmic) for one in inner_jaxprs(equation)]
  if name == 'scan':
    return _scan(inner[0], scan_operands(equation), params['length'])
  if name == 'cond':  # a branch begins when it is known which one it is
    branch = np.max(inner, 0)
    return np.concatenate([branch.max(1, keepdims=True), branch], 1)
  return inner[0]


def _scan(body: np.ndarray, operands: LoopOperands, length: int) -> np.ndarray:
  """Chains through so many turns of a body, [carried and stacked outputs, operands + 1]."""
  consts, carry, _ = operands
  turn = np.where(np.eye(body.shape[1], dtype=bool), 0.0, NEVER)  # the operands stay as they are
  turn[consts : consts + carry] = body[:carry]
  last = power(turn, length)[consts : consts + carry]
  before = power(np.maximum(turn, np.where(np.eye(len(turn), dtype=bool), 0.0, NEVER)), length - 1)
  return np.concatenate([last, follow(body[carry:], before)])


def follow(after: np.ndarray, before: np.ndarray) -> np.ndarray:
  """The product of two matrices of chains, [a, b] by [b, c]: the longest of all ways round."""
  return np.max(after[:, :, None] + before[None], 1, initial=NEVER)


def power(chains: np.ndarray, exponent: int) -> np.ndarray:
  """A square matrix of chains followed by itself so many times."""
  result = np.where(np.eye(len(chains), dtype=bool), 0.0, NEVER)
  while exponent > 0:
    if exponent % 2:
      result = follow(chains, result)
    chains, exponent = follow(chains, chains), exponent // 2
  return result
