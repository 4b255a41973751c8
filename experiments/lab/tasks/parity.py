"""Parity, in which a model predicts whether the number of ones in a binary sequence is even.

  s[t] = s[t-1] xor x[t]

It is the smallest automaton whose output depends on every previous token. A diagonal linear
recurrence with eigenvalues in [0, 1] cannot represent it at all lengths, but one with an eigenvalue
of -1 can.

Delétang et al. 2023, "Neural networks and the Chomsky hierarchy"; Grazzi et al. 2025, "Unlocking
state-tracking in linear RNNs through negative eigenvalues".
"""

import dataclasses
from typing import ClassVar

import numpy as np

from experiments.lab.tasks.automata import AutomatonTask, MooreMachine

MACHINE = MooreMachine(transition=np.array([[0, 1], [1, 0]]), output=np.arange(2))


@dataclasses.dataclass(frozen=True)
class Parity(AutomatonTask):
  """The target at position t is 0 if the number of ones in tokens 0..t is even, and 1 if odd.

  Two examples (`.` has no weight):

    parity(length=14)
      source  1 0 1 1 0 0 1 0 1 1 0 1 1 1
      target  1 1 0 1 1 1 0 0 1 0 0 1 0 1

    parity(length=16, shortest=13, answers='last')
      source  0 1 1 1 0 1 0 0 1 0 1 1 0 1 1 0
      target  . . . . . . . . . . . . . 0 . .

  Published: answers='last' at lengths 1 to 40, tested at 41 to 500, batches of 128, Adam at 1e-4 to
  5e-4 for 1,000,000 steps, gradients clipped at norm 1; the output is scored after one additional
  empty step.
  """

  family: ClassVar[str] = 'parity'

  @property
  def automaton(self) -> MooreMachine:
    """The automaton whose state is the parity of the tokens and whose output is its state."""
    return MACHINE
