"""Parity: whether the number of ones so far is even.

  s[t] = s[t-1] xor x[t],

the smallest automaton whose every token counts, however long ago it came. A diagonal linear
recurrence with eigenvalues in [0, 1] cannot keep it over all lengths; one with -1 among them can.

Delétang et al. 2023, "Neural networks and the Chomsky hierarchy"; Grazzi et al. 2025, "Unlocking
state-tracking in linear RNNs through negative eigenvalues".
"""

import dataclasses
from typing import ClassVar

import numpy as np

from experiments.lab.tasks.automata import Automaton, Machine

MACHINE = Machine(step=np.array([[0, 1], [1, 0]]), answer=np.arange(2))


@dataclasses.dataclass(frozen=True)
class Parity(Automaton):
  """Whether the number of ones is even (0) or odd (1).

  Two examples (`.` has no weight):

    parity(length=14)
      source  1 0 1 1 0 0 1 0 1 1 0 1 1 1
      target  1 1 0 1 1 1 0 0 1 0 0 1 0 1

    parity(length=16, shortest=13, answers='last')
      source  0 1 1 1 0 1 0 0 1 0 1 1 0 1 1 0
      target  . . . . . . . . . . . . . 0 . .

  Published: answers='last' at lengths 1 to 40, tested at 41 to 500, batches of 128, Adam at 1e-4 to
  5e-4 for 1,000,000 steps, gradients clipped at norm 1; the answer is read one empty step later.
  """

  family: ClassVar[str] = 'parity'

  @property
  def machine(self) -> Machine:
    """The state is the parity."""
    return MACHINE
