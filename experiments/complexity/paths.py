"""How far apart two positions are in a network: the fewest operations between input and output.

A program is run, but over distances instead of numbers. An element of an array carries, for every
position i of the input, the fewest operations on a way from there; the input itself is at 0 from
its own position. What an operation makes is at the minimum over all that goes into it, plus one; a
product of matrices, or a reduction, is one operation, and moving data is none. What has no way from
i is at infinity: it does not depend on i.

Every element is followed, so that this is exact and not what arrays as a whole depend on. Elements
that depend on no position are numbers that are known, and what they cut off is cut: what a mask
leaves out, what is multiplied by 0, what stands beside a score so low that it swallows it.

The support of a path is that of the Jacobian at a generic point (tested for every layer).
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.extend import core

from experiments.complexity.evaluate import evaluate
from experiments.complexity.followed import NONE, Array, Followed, follow, settled, stack
from experiments.lab.measure.primitives import inner_jaxprs, kind_of, scan_operands


def paths(function: Callable, x, sources: Sequence[int] | None = None) -> np.ndarray:
  """The fewest operations from input positions to each output position [sources, T]; inf: no way.

  Args:
    function: [1, S, ...] -> [1, T, ...]; its parameters should be generic: a 0 among them cuts.
    x: a shape [1, S, ...] with a dtype.
    sources: the positions to start from; None: all S.

  Raises a ValueError for what cannot be followed, such as a primitive that is not known, by name.

  """
  length, rest = x.shape[1], (1,) * (len(x.shape) - 2)
  sources = range(length) if sources is None else sources
  begins = np.array([*(np.arange(length) == i for i in sources),
                     ~np.isin(np.arange(length), sources)])  # the others, as if they were one
  start = np.where(begins, np.float32(0), NONE).reshape(-1, 1, length, *rest)
  start = np.broadcast_to(start, (len(begins), *x.shape))
  program = jax.make_jaxpr(function)(jax.ShapeDtypeStruct(x.shape, x.dtype))
  (y,) = run(program, [Followed(start, np.ones(x.shape, x.dtype))])
  if not isinstance(y, Followed):
    return np.full((len(sources), y.shape[1]), NONE)
  return y.distance[:-1].min((1, *range(3, y.distance.ndim)))


def run(program: core.ClosedJaxpr, arguments: Sequence[Array]) -> list[Array]:
  """A jaxpr over arrays that are known or followed."""
  jaxpr = program.jaxpr
  found = dict(zip(jaxpr.constvars, map(np.asarray, program.consts), strict=True))
  found |= zip(jaxpr.invars, arguments, strict=True)

  def read(atom):
    return np.asarray(atom.val, atom.aval.dtype) if isinstance(atom, core.Literal) else found[atom]

  for equation in jaxpr.eqns:
    operands = [read(atom) for atom in equation.invars]
    if kind_of(equation) == 'control':
      made = CONTROL.get(equation.primitive.name, _call)(equation, operands)
    elif any(isinstance(one, Followed) for one in operands):
      made = follow(equation, operands)
    else:
      made = evaluate(equation, operands)
    found |= zip(equation.outvars, map(settled, made), strict=True)
  return [read(atom) for atom in jaxpr.outvars]


def _call(equation, operands: Sequence[Array]) -> list[Array]:
  return run(next(inner_jaxprs(equation)), operands)


def _scan(equation, operands: Sequence[Array]) -> list[Array]:
  """Turn after turn."""
  params = equation.params
  (body,), length = inner_jaxprs(equation), params['length']
  consts, carried, _ = scan_operands(equation)
  first = consts + carried
  carry, stacked = list(operands[consts:first]), []
  turns = range(length)[::-1] if params['reverse'] else range(length)
  for turn in turns:
    now = [settled(x.at(turn)) if isinstance(x, Followed) else x[turn] for x in operands[first:]]
    made = run(body, [*operands[:consts], *carry, *now])
    carry = made[: len(carry)]
    stacked.append(made[len(carry) :])
  if params['reverse']:
    stacked.reverse()
  return carry + [stack(parts) for parts in zip(*stacked, strict=True)]


def _branch(equation, operands: Sequence[Array]) -> list[Array]:
  which, *operands = operands
  if isinstance(which, Followed):
    raise ValueError('a cond whose branch depends on the input cannot be followed')
  return run(equation.params['branches'][int(which)], operands)


def _while(equation, operands: Sequence[Array]) -> list[Array]:
  params = equation.params
  asked, turned = params['cond_nconsts'], params['cond_nconsts'] + params['body_nconsts']
  carry = list(operands[turned:])
  while True:
    (more,) = run(params['cond_jaxpr'], [*operands[:asked], *carry])
    if isinstance(more, Followed):
      raise ValueError('a while loop whose end depends on the input cannot be followed')
    if not more:
      return carry
    carry = run(params['body_jaxpr'], [*operands[asked:turned], *carry])


CONTROL = {'scan': _scan, 'cond': _branch, 'while': _while}
