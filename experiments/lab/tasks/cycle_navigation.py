"""Cycle navigation, in which a model predicts the position on a cycle after a sequence of moves.

  s[t] = (s[t-1] + x[t] - 1) mod 5,  x[t] = 0: backward, 1: stay, 2: forward.

Delétang et al. 2023, "Neural networks and the Chomsky hierarchy". Counting modulo 5 needs complex
eigenvalues, or a transition that is not triangular: Grazzi et al. 2025, "Unlocking state-tracking
in linear RNNs through negative eigenvalues".
"""

import dataclasses
from typing import ClassVar

import numpy as np

from experiments.lab.tasks.automata import AutomatonTask, MooreMachine

NUM_POSITIONS = 5
POSITIONS = np.arange(NUM_POSITIONS)
MACHINE = MooreMachine(
  transition=(POSITIONS[:, None] + [-1, 0, 1]) % NUM_POSITIONS, output=POSITIONS
)


@dataclasses.dataclass(frozen=True)
class CycleNavigation(AutomatonTask):
  """The target is the position on a cycle of length 5 after moves of -1, 0 or +1.

  The tokens 0, 1 and 2 are the moves backward, stay and forward. The initial position is 0.

  Two examples (`.` has no weight):

    cycle_navigation(length=12)
      source  2 2 1 0 2 2 2 2 1 0 0 2
      target  1 2 2 1 2 3 4 0 0 4 3 4

    cycle_navigation(length=12, shortest=9, answers='last')
      source  0 0 1 0 2 2 0 1 0 0 2 2
      target  . . . . . . . . 2 . . .

  Published: answers='last' at lengths 1 to 40, tested at 41 to 500, batches of 128, Adam at 1e-4 to
  5e-4 for 1,000,000 steps, gradients clipped at norm 1; the output is scored after one additional
  empty step.
  """

  family: ClassVar[str] = 'cycle_navigation'

  @property
  def automaton(self) -> MooreMachine:
    """The automaton whose state is the position on the cycle and whose output is its state."""
    return MACHINE
