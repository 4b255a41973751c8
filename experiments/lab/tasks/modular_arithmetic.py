"""Modular arithmetic without brackets: the value of an expression in +, - and *, modulo 5.

Multiplication binds tighter, so that what a number does depends on what follows it. Two registers
are enough, a sum of the terms that are closed and the signed product that is open, from (0, 1):

  number n    (s, p) -> (s, p n)
  +           (s, p) -> (s + p, 1)
  -           (s, p) -> (s + p, -1)
  *           (s, p) -> (s, p)

and the value is s + p. Words are 129 different functions of the 25 states.

Delétang et al. 2023, "Neural networks and the Chomsky hierarchy", where this is the simple variant.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from experiments.lab.tasks.automata import Automaton, Machine

MODULUS = 5
OPERATORS = '+-*'  # their tokens follow those of the numbers


def tables() -> Machine:
  """The two registers as one state, which is 0 at (0, 1)."""
  closed, opened = np.divmod(np.arange(MODULUS**2), MODULUS)  # opened is p - 1
  s, p = closed[:, None], opened[:, None] + 1
  number, sign = np.arange(MODULUS)[None, :], np.array([[1, -1]])
  after_number = MODULUS * s + (p * number - 1) % MODULUS
  after_sign = MODULUS * ((s + p) % MODULUS) + (sign - 1) % MODULUS
  step = np.concatenate([after_number, after_sign, MODULUS * s + opened[:, None]], 1)
  return Machine(step, (s + p)[:, 0] % MODULUS)


MACHINE = tables()


@dataclasses.dataclass(frozen=True)
class ModularArithmetic(Automaton):
  """The value modulo 5 of an expression: numbers 0 to 4, and + (5), - (6) and * (7) between them.

  An expression is whole after a number: answers are asked for there alone. A product with 0 is 0,
  so that the likeliest answer is 0, and chance is above 1/5. Two examples (`.` has no weight), the
  second asking for 2 * 0 - 4 * 3 + 3 * 1 - 2:

    modular_arithmetic(length=11)
      source  3 5 2 7 4 6 1 7 3 5 0
      target  3 . 0 . 1 . 0 . 3 . 3

    modular_arithmetic(length=15, shortest=9, answers='last')
      source  2 7 0 6 4 7 3 5 3 7 1 6 2 5 4
      target  . . . . . . . . . . . . 4 . .

  Published: answers='last' at odd lengths from 1 to 39, tested at 41 to 500, batches of 128, Adam
  at 1e-4 to 5e-4 for 1,000,000 steps, gradients clipped at norm 1; the answer is read one empty
  step later.
  """

  family: ClassVar[str] = 'modular_arithmetic'

  @property
  def machine(self) -> Machine:
    """The state is the closed sum and the open product."""
    return MACHINE

  @property
  def turns(self) -> tuple[range, ...]:
    """Numbers and operators alternate."""
    return range(MODULUS), range(MODULUS, MODULUS + len(OPERATORS))
