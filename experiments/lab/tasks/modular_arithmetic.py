"""Modular arithmetic, in which a model evaluates expressions in +, - and * modulo 5.

Expressions have no brackets. Multiplication has precedence, so that the effect of a number depends
on the next operator. Two registers suffice, the sum s of all complete terms and the signed product
p of the current term. Their initial values are (0, 1):

  number n    (s, p) -> (s, p n)
  +           (s, p) -> (s + p, 1)
  -           (s, p) -> (s + p, -1)
  *           (s, p) -> (s, p)

The value is s + p. The transition monoid has 129 functions of the 25 states.

Delétang et al. 2023, "Neural networks and the Chomsky hierarchy", where this is the simple variant.
"""

import dataclasses
from typing import ClassVar

import numpy as np

from experiments.lab.tasks.automata import AutomatonTask, MooreMachine

MODULUS = 5
OPERATORS = '+-*'  # tokens MODULUS, MODULUS + 1 and MODULUS + 2


def modular_arithmetic_automaton() -> MooreMachine:
  """The automaton that evaluates expressions modulo 5, with a sum s and a product p as its state.

  State MODULUS * s + p - 1 encodes the registers, with s from 0 to 4 and p from 1 to 5.
  """
  register_sum, register_product = np.divmod(np.arange(MODULUS**2), MODULUS)  # s and p - 1
  s, p = register_sum[:, None], register_product[:, None] + 1
  number, sign = np.arange(MODULUS)[None, :], np.array([[1, -1]])
  after_number = MODULUS * s + (p * number - 1) % MODULUS
  after_sign = MODULUS * ((s + p) % MODULUS) + (sign - 1) % MODULUS
  after_times = MODULUS * s + p - 1
  transition = np.concatenate([after_number, after_sign, after_times], 1)
  return MooreMachine(transition, (s + p)[:, 0] % MODULUS)


MACHINE = modular_arithmetic_automaton()


@dataclasses.dataclass(frozen=True)
class ModularArithmetic(AutomatonTask):
  """The target is the value modulo 5 of an expression of the numbers 0 to 4 with +, - and *.

  Tokens 0 to 4 are the numbers, and tokens 5, 6 and 7 are the operators +, - and *. An expression
  is complete after a number, and only these positions are scored. A product with 0 is 0, so that 0
  is the most likely value and chance exceeds 1/5. Two examples (`.` has no weight), of which the
  second expression is 2 * 0 - 4 * 3 + 3 * 1 - 2:

    modular_arithmetic(length=11)
      source  3 5 2 7 4 6 1 7 3 5 0
      target  3 . 0 . 1 . 0 . 3 . 3

    modular_arithmetic(length=15, shortest=9, answers='last')
      source  2 7 0 6 4 7 3 5 3 7 1 6 2 5 4
      target  . . . . . . . . . . . . 4 . .

  Published: answers='last' at odd lengths from 1 to 39, tested at 41 to 500, batches of 128, Adam
  at 1e-4 to 5e-4 for 1,000,000 steps, gradients clipped at norm 1; the output is scored after one
  additional empty step.
  """

  family: ClassVar[str] = 'modular_arithmetic'

  @property
  def automaton(self) -> MooreMachine:
    return MACHINE

  @property
  def token_id_ranges(self) -> tuple[range, ...]:
    """The allowed tokens, which are operands at even positions and operators at odd positions."""
    return range(MODULUS), range(MODULUS, MODULUS + len(OPERATORS))
